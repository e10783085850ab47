import { join } from 'node:path';
import { deflateRawSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InvalidInputError } from '#shared/tasks/define-task.ts';
import { runTask, testFile, type TaskRun, type TaskRunOptions } from '#shared/tasks/testing.ts';
import {
  makeTar,
  makeZip,
  makeZip64,
  tarBody,
  tarEnd,
  tarHeader,
  type TarPart,
  type ZipPart,
} from './archives.testing.ts';
import handler from './handler.ts';
import { task, type ExtractResult } from './task.ts';

type Options = TaskRunOptions<typeof task.input, typeof task.output>;
type Run = TaskRun<ExtractResult>;

async function extract(
  bytes: Buffer,
  input: Partial<Options['input']> = {},
  options: Partial<Pick<Options, 'limits' | 'signal' | 'onProgress'>> & { name?: string } = {},
): Promise<Run> {
  const { name = 'archive', ...others } = options;
  const file = testFile(bytes, { name });
  const all = { ...input, file: file.id };
  return runTask({ definition: task, handler, input: all, files: [file], ...others });
}

/** Path → text of what came out, in order. */
function texts(run: Run): [string, string][] {
  return run.result.files.map(({ file, path }) => [path, run.output(file).bytes.toString()]);
}

/** Without what came out, which nobody wants to see when a bomb went off. */
const refused = async (bytes: Buffer): Promise<ExtractResult> => (await extract(bytes)).result;

const refusal = (message: RegExp) =>
  expect.objectContaining({ name: 'InvalidInputError', message: expect.stringMatching(message) as string });

const png = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'base64',
);

/** Larger than any buffer on the way. */
const noise = Buffer.from(Array.from({ length: 2_000_001 }, (_, index) => (index * (index >> 7)) % 251));

const parts = [
  { name: 'b.txt', bytes: 'second comes first' },
  { name: 'photos/' },
  { name: 'photos/2024/a.png', bytes: png },
  { name: 'photos/grüße 日本.csv', bytes: 'a,b\n1,2\n3,4\n' },
  { name: 'empty.txt', bytes: '' },
] as const satisfies readonly ZipPart[];

const tarParts: readonly TarPart[] = parts.map((part) =>
  part.name.endsWith('/') ? { ...part, type: 'directory' } : part,
);

describe('archive.extract', () => {
  it.each([
    ['zip', async () => makeZip(parts)],
    ['zip', async () => makeZip(parts.map((part) => ({ ...part, method: 0 })))],
    ['tar', async () => makeTar(tarParts)],
    ['tar.gz', async () => gzipSync(await makeTar(tarParts))],
  ] as const)(
    '%s: every file with its path, size and type, in the order of the archive',
    async (format, make) => {
      const run = await extract(await make());
      expect(run.result).toEqual({
        format,
        files: [
          {
            file: run.outputs[0]?.id,
            name: 'b.txt',
            path: 'b.txt',
            sizeBytes: 18,
            mediaType: 'text/plain',
          },
          {
            file: run.outputs[1]?.id,
            name: 'a.png',
            path: 'photos/2024/a.png',
            sizeBytes: png.length,
            mediaType: 'image/png',
          },
          {
            file: run.outputs[2]?.id,
            name: 'grüße 日本.csv',
            path: 'photos/grüße 日本.csv',
            sizeBytes: 12,
            mediaType: 'text/csv',
          },
          {
            file: run.outputs[3]?.id,
            name: 'empty.txt',
            path: 'empty.txt',
            sizeBytes: 0,
            mediaType: 'application/x-empty',
          },
        ],
        skipped: [],
        skippedCount: 0,
        leftOutCount: 0,
      });
      expect(
        run.outputs.map(({ name, mediaType, bytes }) => [name, mediaType, bytes.toString('latin1')]),
      ).toEqual([
        ['b.txt', 'text/plain', 'second comes first'],
        ['a.png', 'image/png', png.toString('latin1')],
        ['grüße 日本.csv', 'text/csv', 'a,b\n1,2\n3,4\n'],
        ['empty.txt', 'application/x-empty', ''],
      ]);
      expect(run.progress.at(-1)?.percent).toBe(100);
    },
  );

  it.each([
    ['zip, deflated', async (file: ZipPart) => makeZip([file])],
    ['zip, stored', async (file: ZipPart) => makeZip([{ ...file, method: 0 }])],
    ['tar', async () => makeTar([{ name: 'noise', bytes: noise }])],
    ['tar.gz', async () => gzipSync(await makeTar([{ name: 'noise', bytes: noise }]))],
    ['gzip', async () => gzipSync(noise)],
  ])('%s: a file of many pieces comes out as it went in', async (_, make) => {
    const run = await extract(await make({ name: 'noise', bytes: noise }));
    expect(run.outputs).toHaveLength(1);
    expect(run.outputs[0]?.bytes.equals(noise)).toBe(true);
    expect(run.result.files[0]?.sizeBytes).toBe(noise.length);
  });

  it.each([
    ['data.csv.gz', undefined, 'data.csv'],
    ['data', undefined, 'data'],
    ['upload.bin', 'grüße.csv', 'grüße.csv'],
    ['upload.gz', '../up.csv', undefined],
  ])('a gzipped file called %s, packed as %s, comes out as %s', async (name, original, path) => {
    const plain = gzipSync('a,b\n1,2\n');
    const header = Buffer.from(plain.subarray(0, 10));
    header[3] = 8;
    const packed =
      original === undefined
        ? plain
        : Buffer.concat([header, Buffer.from(`${original}\0`), plain.subarray(10)]);
    const run = await extract(packed, {}, { name });
    expect(run.result.format).toBe('gzip');
    expect(texts(run)).toEqual(path === undefined ? [] : [[path, 'a,b\n1,2\n']]);
  });

  it('gzip data of several members is one file', async () => {
    const run = await extract(Buffer.concat([gzipSync('one '), gzipSync('two')]), {}, { name: 'a.txt.gz' });
    expect(texts(run)).toEqual([['a.txt', 'one two']]);
  });

  it.each([
    ['zip', async () => makeZip([])],
    ['tar', async () => makeTar([])],
    ['tar', async () => Buffer.alloc(10_240)],
    ['tar.gz', async () => gzipSync(Buffer.alloc(10_240))],
  ] as const)('an empty %s has no files', async (format, make) => {
    expect((await extract(await make())).result).toMatchObject({ format, files: [] });
  });

  it('takes only what is included, and leaves out what macOS and Windows add', async () => {
    const names = ['a.jpg', 'sub/B.JPG', 'c.png', '__MACOSX/sub/._a.jpg', 'sub/._a.jpg', '.DS_Store'];
    const zip = makeZip(names.map((name) => ({ name, bytes: name })));
    const some = await extract(zip, { include: '*.jpg' });
    expect(texts(some).map(([path]) => path)).toEqual(['a.jpg', 'sub/B.JPG']);
    expect(some.result).toMatchObject({ leftOutCount: 4, skippedCount: 0 });
    const all = await extract(zip, { exclude: [] });
    expect(texts(all).map(([path]) => path)).toEqual(names);
    const two = await extract(zip, { include: ['*.png', 'sub/**'], exclude: '._*' });
    expect(texts(two).map(([path]) => path)).toEqual(['sub/B.JPG', 'c.png']);
  });

  it('an archive inside an archive stays one', async () => {
    const run = await extract(makeZip([{ name: 'inner.zip', bytes: makeZip(parts) }]));
    expect(run.result.files).toMatchObject([{ path: 'inner.zip', mediaType: 'application/zip' }]);
  });

  it('two entries of the same path are two files', async () => {
    const twice = [
      { name: 'a.txt', bytes: '1' },
      { name: 'a.txt', bytes: '2' },
    ];
    const expected = [
      ['a.txt', '1'],
      ['a.txt', '2'],
    ];
    expect(texts(await extract(makeZip(twice)))).toEqual(expected);
    expect(texts(await extract(await makeTar(twice)))).toEqual(expected);
  });

  it('reads ZIP64', async () => {
    expect(texts(await extract(makeZip64('large.txt', Buffer.from('64'))))).toEqual([['large.txt', '64']]);
  });

  it('reads what yazl, Info-ZIP, GNU tar and others stream: sizes behind the bytes, names of any length', async () => {
    const long = `${'folder/'.repeat(40)}name.txt`;
    const gnuLong = Buffer.concat([
      tarHeader({ name: '././@LongLink', size: long.length + 1, type: 'L', magic: 'ustar  \0' }),
      tarBody(`${long}\0`),
      tarHeader({ name: long.slice(0, 100), size: 2, magic: 'ustar  \0' }),
      tarBody('hi'),
      tarEnd,
    ]);
    expect(texts(await extract(gnuLong))).toEqual([[long, 'hi']]);
    expect(texts(await extract(await makeTar([{ name: long, bytes: 'hi' }])))).toEqual([[long, 'hi']]);
    const v7 = Buffer.concat([tarHeader({ name: 'old.txt', size: 2 }), tarBody('hi'), tarEnd]);
    expect(texts(await extract(v7))).toEqual([['old.txt', 'hi']]);
    const stdin = makeZip([{ name: '-', bytes: 'hi', mode: 0o010_600 }]);
    expect(texts(await extract(stdin))).toEqual([['-', 'hi']]);
    const streamed = makeZip([{ name: 'a.txt', bytes: 'hi', flags: 0x0808 }]);
    expect(texts(await extract(streamed))).toEqual([['a.txt', 'hi']]);
  });

  it('decodes names that are not UTF-8: code page 437 in ZIP, Latin-1 in TAR, and UTF-8 without its flag', async () => {
    const cp437 = Buffer.concat([Buffer.from('gr'), Buffer.from([0x81, 0xe1]), Buffer.from('e.txt')]);
    const latin1 = Buffer.from('grüße.txt', 'latin1');
    const zip = makeZip([
      { name: cp437, flags: 0, bytes: '1' },
      { name: 'grüße.txt', flags: 0, bytes: '2' },
      { name: 'folder\\grüße.txt', bytes: '3' },
    ]);
    expect(texts(await extract(zip))).toEqual([
      ['grüße.txt', '1'],
      ['grüße.txt', '2'],
      ['folder/grüße.txt', '3'],
    ]);
    const tar = Buffer.concat([tarHeader({ name: latin1, size: 1 }), tarBody('1'), tarEnd]);
    expect(texts(await extract(tar))).toEqual([['grüße.txt', '1']]);
  });

  it('stops when it is told to, and says so by what the signal holds', async () => {
    const controller = new AbortController();
    const reason = new Error('cancelled');
    for (const bytes of [
      makeZip([{ name: 'a', bytes: noise, method: 0 }]),
      await makeTar([{ name: 'a', bytes: noise }]),
      gzipSync(noise, { level: 0 }),
    ]) {
      const controller = new AbortController();
      const run = extract(
        bytes,
        {},
        { signal: controller.signal, onProgress: () => controller.abort(reason) },
      );
      await expect(run).rejects.toBe(reason);
    }
    controller.abort(reason);
    await expect(extract(makeZip(parts), {}, { signal: controller.signal })).rejects.toBe(reason);
  });
});

describe('archive.extract: limits, each with its name (ASVS 5.2.3)', () => {
  const three = [1, 2, 3].map((n) => ({ name: `${n}.txt`, bytes: `${n}` }));

  it.each([
    ['zip', async () => makeZip(three)],
    ['tar', async () => makeTar(three)],
  ])(
    '%s: more files than wanted, or than a job may give, are refused; those left out do not count',
    async (_, make) => {
      const bytes = await make();
      await expect(extract(bytes, { filesMax: 2 })).rejects.toEqual(
        refusal(/more files .* 2 \(`filesMax`\)/),
      );
      const limits = { outputFilesMax: 2 };
      await expect(extract(bytes, {}, { limits })).rejects.toEqual(
        refusal(/ 2, .*WINDLASS_OUTPUT_FILES_MAX/),
      );
      await expect(extract(bytes, { filesMax: 9 }, { limits })).rejects.toEqual(
        refusal(/WINDLASS_OUTPUT_FILES_MAX/),
      );
      const run = await extract(bytes, { filesMax: 2, exclude: '2.txt' }, { limits });
      expect(texts(run).map(([path]) => path)).toEqual(['1.txt', '3.txt']);
    },
  );

  it('a zip with too many files is refused before the first of them is written', async () => {
    const progress: number[] = [];
    const run = extract(makeZip(three), { filesMax: 2 }, { onProgress: (percent) => progress.push(percent) });
    await expect(run).rejects.toThrow(InvalidInputError);
    expect(progress).toEqual([]);
  });

  it('more than 10,000 entries are refused, also of folders, and whatever the directory says of their number', async () => {
    const many = Array.from({ length: 10_001 }, (_, index) => ({ name: `${index}/`, method: 0 }));
    await expect(extract(makeZip(many))).rejects.toEqual(refusal(/10001 entries.*at most 10000/));
    const headers = many.map(({ name }) => tarHeader({ name, type: '5' }));
    await expect(extract(Buffer.concat([...headers, tarEnd]))).rejects.toEqual(
      refusal(/more than 10000 entries/),
    );
    const lying = makeZip(many, { entries: 3 });
    await expect(extract(lying)).rejects.toEqual(refusal(/more entries than the 3 that it says/));
  });

  it('names and comments of more than 16 MiB are refused', async () => {
    const name = 'x'.repeat(60_000);
    const zip = makeZip(Array.from({ length: 290 }, () => ({ name, method: 0 })));
    await expect(extract(zip)).rejects.toEqual(refusal(/more than 16777216 bytes/));
  });

  it.each([
    ['zip', async () => makeZip(three)],
    ['tar.gz', async () => gzipSync(await makeTar(three))],
    ['gzip', async () => gzipSync('123')],
  ])('%s: more bytes than wanted are refused', async (_, make) => {
    const bytes = await make();
    await expect(extract(bytes, { bytesMax: 2 })).rejects.toEqual(refusal(/more than 2 bytes .*`bytesMax`/));
    expect(
      texts(await extract(bytes, { bytesMax: 3 }))
        .map(([, text]) => text)
        .join(''),
    ).toBe('123');
  });

  it('a file larger than those that are stored is refused with the name of the limit', async () => {
    const limits = { outputFileBytesMax: 4 };
    const large = [{ name: 'a.txt', bytes: '12345' }];
    for (const bytes of [makeZip(large), await makeTar(large), gzipSync('12345')]) {
      await expect(extract(bytes, {}, { limits })).rejects.toEqual(refusal(/WINDLASS_FILE_BYTES_MAX/));
    }
  });

  it('a list of files longer than a result may be is refused with the name of the limit', async () => {
    const limits = { resultBytesMax: 1_024 };
    const zip = makeZip(Array.from({ length: 9 }, (_, index) => ({ name: `${index}.txt`, bytes: 'x' })));
    await expect(extract(zip, {}, { limits })).rejects.toEqual(refusal(/WINDLASS_RESULT_BYTES_MAX/));
    const run = await extract(zip, { include: '?.txt', exclude: ['5*', '6*', '7*', '8*'] }, { limits });
    expect(JSON.stringify(run.result).length).toBeLessThanOrEqual(1_024);
    expect(run.result.files).toHaveLength(5);
  });

  it('of a thousand skipped entries the first hundred are named and all counted', async () => {
    const links = Array.from({ length: 1_000 }, (_, index) => ({ name: `${index}`, mode: 0o120_777 }));
    const { result } = await extract(makeZip(links));
    expect(result.skipped).toHaveLength(100);
    expect(result.skippedCount).toBe(1_000);
  });
});

describe('archive.extract: hostile archives', () => {
  const zeros = Buffer.alloc(40_000_000);

  it.each([
    ['zip', async () => makeZip([{ name: 'zeros', bytes: zeros }])],
    ['tar.gz', async () => gzipSync(await makeTar([{ name: 'zeros', bytes: zeros }]))],
    ['gzip', async () => gzipSync(zeros)],
    // What is passed over comes out of the packing as well.
    ['tar.gz', async () => gzipSync(await makeTar([{ name: '../zeros', bytes: zeros }]))],
    // Not a single entry in it.
    ['tar.gz', async () => gzipSync(Buffer.concat([await makeTar([{ name: 'a' }]), zeros]))],
  ])('42.zip: a bomb (%s) is refused by its ratio', async (_, make) => {
    await expect(refused(await make())).rejects.toEqual(
      refusal(/more than 100 times its size \(`ratioMax`\)/),
    );
  });

  it('many entries that are small each are a bomb together', async () => {
    const bytes = Buffer.alloc(1_000_000);
    const packed = deflateRawSync(bytes);
    const bomb = makeZip(Array.from({ length: 40 }, (_, index) => ({ name: `${index}`, bytes, packed })));
    await expect(refused(bomb)).rejects.toEqual(refusal(/`ratioMax`/));
  });

  it('an honest archive of zeros comes out where it is small, or the job allows it', async () => {
    const small = makeZip([{ name: 'zeros', bytes: zeros.subarray(0, 16 * 1024 * 1024) }]);
    expect((await extract(small)).result.files).toMatchObject([{ sizeBytes: 16 * 1024 * 1024 }]);
    const large = makeZip([{ name: 'zeros', bytes: zeros }]);
    const run = await extract(large, { ratioMax: 2_000 });
    expect(run.result.files).toMatchObject([
      { sizeBytes: zeros.length, mediaType: 'application/octet-stream' },
    ]);
  });

  it('an entry that is larger than it says is refused where it passes what it said', async () => {
    const zip = makeZip([{ name: 'liar', bytes: zeros, says: { bytes: 10 } }]);
    await expect(extract(zip, { ratioMax: 2_000 })).rejects.toEqual(refusal(/damaged.*too many bytes/));
    const smaller = makeZip([{ name: 'liar', bytes: 'ab', says: { bytes: 10 } }]);
    await expect(extract(smaller)).rejects.toEqual(refusal(/damaged.*not enough bytes/));
    const stored = makeZip([{ name: 'liar', bytes: 'ab', method: 0, says: { bytes: 1 } }]);
    await expect(extract(stored)).rejects.toEqual(refusal(/damaged.*size mismatch/));
  });

  it('an entry that says it is larger than all limits is refused before a byte of it is written', async () => {
    const zip = makeZip([{ name: 'giant', bytes: 'ab', says: { bytes: 0xffff_fffe } }]);
    await expect(extract(zip)).rejects.toEqual(refusal(/`bytesMax`/));
    const tar = Buffer.concat([tarHeader({ name: 'giant', size: 8_000_000_000 }), tarBody('ab')]);
    await expect(extract(tar)).rejects.toEqual(refusal(/WINDLASS_FILE_BYTES_MAX/));
  });

  it('overlapping entries are refused, in full and quoted', async () => {
    const kernel = { name: 'a', bytes: Buffer.alloc(100_000) };
    const full = makeZip([kernel, { ...kernel, name: 'b', says: { offset: 0 } }]);
    await expect(extract(full)).rejects.toEqual(refusal(/overlaps/));
    // The first entry quotes the header of the second in a stored block, and so holds all of it.
    const second = makeZip([kernel]).subarray(0, -22 - 46 - 1);
    const packed = second;
    const quoted = makeZip([{ name: 'q', bytes: 'x', packed }, kernel].map((part) => part));
    const inner = quoted.indexOf(Buffer.from('PK\x03\x04', 'latin1'), 4);
    const overlapping = makeZip([
      { name: 'q', bytes: 'x', packed },
      { ...kernel, says: { offset: inner } },
    ]);
    await expect(extract(overlapping)).rejects.toEqual(refusal(/"q" overlaps/));
  });

  it('they are refused before the first file is written, also when nobody wants them', async () => {
    const kernel = { bytes: Buffer.alloc(100_000), says: { offset: 30 + 5 + 5 } };
    const zip = makeZip([
      { name: 'a.txt', bytes: 'hello', method: 0 },
      { ...kernel, name: 'b.bin' },
      { ...kernel, name: 'c.bin' },
    ]);
    const progress: number[] = [];
    const run = extract(zip, { include: '*.txt' }, { onProgress: (percent) => progress.push(percent) });
    await expect(run).rejects.toEqual(refusal(/overlaps/));
    expect(progress).toEqual([]);
  });

  it('an entry that reaches into the directory is refused, also by the length of its own header', async () => {
    const bytes = Buffer.from('some text');
    const zip = makeZip([{ name: 'a', bytes, method: 0 }]);
    // The local header says that its extra field is longer than the directory knows.
    const longer = Buffer.from(zip);
    longer.writeUInt16LE(5, 28);
    await expect(extract(longer)).rejects.toEqual(refusal(/"a" overlaps/));
  });

  it('ASVS 5.3.2: entries that would leave the folder, and links, come out nowhere and are named', async () => {
    const zip = makeZip([
      { name: '../../etc/cron.d/evil', bytes: 'x' },
      { name: '/etc/passwd', bytes: 'x' },
      { name: 'C:\\windows\\win.ini', bytes: 'x' },
      { name: 'link', bytes: '/etc/passwd', mode: 0o120_777 },
      { name: 'pipe', mode: 0o010_644 },
      { name: 'x'.repeat(1_025), bytes: 'x' },
      { name: 'good.txt', bytes: 'good' },
    ]);
    const run = await extract(zip);
    expect(texts(run)).toEqual([['good.txt', 'good']]);
    expect(run.outputs).toHaveLength(1);
    expect(run.result.skipped).toMatchObject([
      { path: '../../etc/cron.d/evil', reason: 'unsafe-path' },
      { path: '/etc/passwd', reason: 'unsafe-path' },
      { path: 'C:/windows/win.ini', reason: 'unsafe-path' },
      { path: 'link', reason: 'link' },
      { path: 'pipe', reason: 'device' },
      { reason: 'path-too-long' },
    ]);
    const tar = await makeTar([
      { name: '../../etc/cron.d/evil', bytes: 'x' },
      { name: '/etc/passwd', bytes: 'x' },
      { name: 'soft', type: 'symlink', linkname: '/etc/passwd' },
      { name: 'soft/passwd', bytes: 'written through the link' },
      { name: 'hard', type: 'link', linkname: '/etc/passwd' },
      { name: 'block', type: 'block-device' },
      { name: 'character', type: 'character-device' },
      { name: 'pipe', type: 'fifo' },
    ]);
    const sparse = [tarHeader({ name: 'sparse', type: 'S', size: 3, magic: 'ustar  \0' }), tarBody('map')];
    const pax = { 'GNU.sparse.major': '1', 'GNU.sparse.name': 'disk.img' };
    const named = await makeTar([{ name: 'GNUSparseFile.1/disk.img', pax, bytes: 'map' }]);
    const { result, outputs } = await extract(Buffer.concat([...sparse, named.subarray(0, -1_024), tar]));
    expect(outputs.map(({ name, bytes }) => [name, bytes.toString()])).toEqual([
      ['passwd', 'written through the link'],
    ]);
    expect(result.skipped).toEqual([
      { path: 'sparse', reason: 'unsupported' },
      { path: 'disk.img', reason: 'unsupported' },
      { path: '../../etc/cron.d/evil', reason: 'unsafe-path' },
      { path: '/etc/passwd', reason: 'unsafe-path' },
      { path: 'soft', reason: 'link' },
      { path: 'hard', reason: 'link' },
      { path: 'block', reason: 'device' },
      { path: 'character', reason: 'device' },
      { path: 'pipe', reason: 'device' },
    ]);
  });

  it('control characters of a name reach neither the result nor the names of files', async () => {
    const { result } = await extract(makeZip([{ name: 'a\u001b[2J\0\u0085b.txt', bytes: 'x' }]));
    expect(result.files).toEqual([]);
    expect(result.skipped).toEqual([{ path: 'a[2Jb.txt', reason: 'unsafe-path' }]);
  });

  it('an entry with a password is refused when it is wanted', async () => {
    const zip = makeZip([
      { name: 'open.txt', bytes: 'open' },
      { name: 'secret.txt', packed: Buffer.alloc(20), flags: 1, bytes: 'x' },
    ]);
    await expect(extract(zip)).rejects.toEqual(
      refusal(/"secret\.txt" in "archive" is protected by a password/),
    );
    expect(texts(await extract(zip, { include: 'open.txt' }))).toEqual([['open.txt', 'open']]);
    const aes = makeZip([{ name: 'aes', method: 99, packed: Buffer.alloc(20), bytes: 'x' }]);
    await expect(extract(aes)).rejects.toEqual(refusal(/password/));
    const strong = makeZip([{ name: 'strong', flags: 0x41, bytes: 'x' }]);
    await expect(extract(strong)).rejects.toEqual(refusal(/strong encryption/));
  });

  it('a method that cannot be unpacked is named', async () => {
    const zip = makeZip([{ name: 'a', method: 9, packed: Buffer.alloc(20), bytes: 'x' }]);
    await expect(extract(zip)).rejects.toEqual(refusal(/Deflate64, which is unsupported/));
  });

  it('an entry whose checksum is wrong is refused', async () => {
    const zip = makeZip([{ name: 'a.txt', bytes: 'right', says: { crc: 1 } }]);
    await expect(extract(zip)).rejects.toEqual(refusal(/damaged.*checksum \(CRC-32\) of the entry "a\.txt"/));
    const gzip = gzipSync('right');
    gzip[gzip.length - 8] = (gzip.at(-8) ?? 0) ^ 1;
    await expect(extract(gzip)).rejects.toEqual(refusal(/damaged/));
  });

  it.each([
    ['zip', async () => makeZip(parts)],
    ['tar', async () => makeTar(tarParts)],
    ['tar.gz', async () => gzipSync(await makeTar(tarParts))],
    ['gzip', async () => gzipSync('some text that is long enough')],
  ])('%s: wherever it is cut off, it fails, and never for another attempt', async (_, make) => {
    const whole = await make();
    const step = Math.max(1, Math.floor(whole.length / 60));
    for (let length = 1; length < whole.length; length += step) {
      // A TAR archive ends with two blocks of zeros, of which one is enough.
      if (_ === 'tar' && length > whole.length - 1_024) break;
      await expect(extract(whole.subarray(0, length)), `cut at ${length}`).rejects.toThrow(InvalidInputError);
    }
  });

  it('a tar that was cut off between two entries is damaged, because its end is missing', async () => {
    const tar = Buffer.concat([tarHeader({ name: 'a.txt', size: 2 }), tarBody('hi')]);
    await expect(extract(tar)).rejects.toEqual(refusal(/damaged.*without the mark/));
  });

  it.each([
    ['%PDF-1.4\n%âãÏÓ\n', /application\/pdf/],
    ['7z\xbc\xaf\x27\x1c\0\x04' + '\0'.repeat(40), /application\/x-7z-compressed/],
    ['Rar!\x1a\x07\x01\0' + '\0'.repeat(40), /application\/x-rar-compressed/],
    ['just text', /text\/plain/],
    ['', /is empty/],
    ['\0'.repeat(40_000), /octet-stream/],
  ])('what is no archive is unsupported by its bytes, whatever it is called: %j', async (text, message) => {
    const run = extract(Buffer.from(text, 'latin1'), {}, { name: 'archive.zip' });
    await expect(run).rejects.toEqual(refusal(message));
  });

  it('what is an archive is one, whatever it is called', async () => {
    const run = await extract(makeZip(parts), {}, { name: 'holiday.jpg' });
    expect(run.result.format).toBe('zip');
  });

  it.each([
    ['the directory', (zip: Buffer) => zip.length - 22 - 20 - 56 + 48],
    ['the record of the directory', (zip: Buffer) => zip.length - 22 - 20 + 8],
    ['an entry', (zip: Buffer) => zip.length - 22 - 20 - 56 - 8],
  ])('a ZIP64 archive that has %s beyond all numbers is damaged, and ends no process', async (_, place) => {
    const zip = makeZip64('a.txt', Buffer.from('64'));
    zip.writeBigUInt64LE(0x7fff_ffff_ffff_ffffn, place(zip));
    await expect(extract(zip)).rejects.toEqual(refusal(/damaged/));
  });

  it('whatever bytes are changed, there is a result or an error that is not tried again', async () => {
    const archives = [
      makeZip([...parts, { name: 'stored', bytes: 'as it is', method: 0 }]),
      makeZip64('a.txt', Buffer.from('64')),
      await makeTar([...tarParts, { name: 'x'.repeat(200), bytes: 'pax' }]),
      gzipSync(await makeTar(tarParts)),
    ];
    const change = fc.record({ at: fc.nat(), to: fc.constantFrom(0, 1, 0x7f, 0x80, 0xff) });
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...archives),
        fc.array(change, { minLength: 1, maxLength: 6 }),
        async (archive, changes) => {
          const bytes = Buffer.from(archive);
          for (const { at, to } of changes) bytes[at % bytes.length] = to;
          const run = await extract(bytes).catch((err: unknown) => err);
          if (run instanceof Error) expect(run).toBeInstanceOf(InvalidInputError);
        },
      ),
      { numRuns: 400 },
    );
  });
});

it('patterns of other tools are refused when the job is sent, and not quietly without a match', () => {
  const parse = (include: unknown) => task.input.safeParse({ ...(task.example as object), include }).success;
  expect(parse(['*.jpg', 'a/**/b?'])).toBe(true);
  const foreign = ['*.{jpg,png}', '[a-z].jpg', '!a', 'a\\b', '', ['x'.repeat(256)]];
  expect(foreign.filter((include) => parse(include))).toEqual([]);
});

it('reads the archives of the fixtures', async () => {
  const fixtures = join(import.meta.dirname, '../../test/fixtures');
  const file = testFile(join(fixtures, 'archive.zip'));
  const run = await runTask({ definition: task, handler, input: { file: file.id }, files: [file] });
  expect(run.result.files).toHaveLength(2);
  expect(run.result.skipped).toEqual([{ path: '../escape.txt', reason: 'unsafe-path' }]);
  const bomb = testFile(join(fixtures, 'bomb.zip'));
  await expect(
    runTask({ definition: task, handler, input: { file: bomb.id }, files: [bomb] }),
  ).rejects.toEqual(refusal(/`ratioMax`/));
});
