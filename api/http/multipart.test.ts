import { randomBytes } from 'node:crypto';
import { PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { setImmediate } from 'node:timers/promises';
import { Busboy } from '@fastify/busboy';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AppError } from '#shared/errors.ts';
import { readMultipart, type FilePart, type MultipartLimits } from './multipart.ts';

const limits: MultipartLimits = { partsMax: 20, filesMax: 10, fieldsMax: 100, fieldBytesMax: 256 * 1024 };
const contentType = 'multipart/form-data; boundary=b';

describe('a form', () => {
  test.for([
    ['files first', ['file', 'task', 'input']],
    ['files last', ['task', 'input', 'file']],
    ['files in between', ['task', 'file', 'input']],
  ] as const)('is read in whatever order its parts come: %s', async ([, order]) => {
    const parts = {
      task: field('task', 'image.resize'),
      input: field('input', '{"width":10}'),
      file: file('a.png', 'PNG'),
    };
    const form = await read(formOf(order.map((name) => parts[name])));
    expect(Object.fromEntries(form.fields)).toEqual({ task: 'image.resize', input: '{"width":10}' });
    expect(form.files).toEqual([{ fileName: 'a.png', mediaType: 'application/octet-stream', text: 'PNG' }]);
  });

  test('may have several files, empty files and empty fields', async () => {
    const form = await read(
      formOf([file('a', ''), field('x', ''), file('b', 'B'), file('c', ''), field('y', 'ü€🙂')]),
    );
    expect(form.files.map((one) => [one.fileName, one.text])).toEqual([
      ['a', ''],
      ['b', 'B'],
      ['c', ''],
    ]);
    expect(Object.fromEntries(form.fields)).toEqual({ x: '', y: 'ü€🙂' });
  });

  test('may be empty, may have a preamble and an epilogue', async () => {
    expect((await read('--b--\r\n')).fields.size).toBe(0);
    const form = await read(`ignore me\r\n${formOf([field('task', 'x')])}ignore me too\r\n--b\r\n\r\n--b--`);
    expect(Object.fromEntries(form.fields)).toEqual({ task: 'x' });
  });

  test('takes a part named file without a file name for a file, and a field with a file name for a field', async () => {
    const form = await read(
      formOf([
        'Content-Disposition: form-data; name="file"\r\n\r\nF',
        'Content-Disposition: form-data; name="input"; filename="in.json"\r\n\r\n{}',
      ]),
    );
    expect(form.files).toEqual([{ fileName: undefined, mediaType: undefined, text: 'F' }]);
    expect(Object.fromEntries(form.fields)).toEqual({ input: '{}' });
  });

  test('keeps bytes that look almost like a boundary', async () => {
    const text = '\r\n--\r\n-b\r\n--a\r\n--c--\r\n-\r\n--B\r\n\r\n--';
    for (const size of [1, 2, 3, 5, 1_000]) {
      expect((await read(formOf([file('a', text)]), { size })).files[0]?.text, `slices of ${size}`).toBe(
        text,
      );
    }
  });

  test('gives the same whatever the pieces in which it arrives', async () => {
    const oneByteFields = fc.record({
      name: fc.constantFrom('task', 'input', 'options', 'x'),
      value: fc.string({ unit: 'binary', maxLength: 30 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(oneByteFields, { selector: (one) => one.name }),
        fc.array(
          fc.oneof(
            fc.uint8Array({ maxLength: 40 }),
            fc.constantFrom('\r\n--b', '\r\n--', '--b--', '\r', '').map((text) => Buffer.from(text)),
          ),
          { maxLength: 4 },
        ),
        fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
        async (fields, contents, sizes) => {
          // The boundary must not be in the data; clients choose one that is not.
          const boundary = 'a-boundary-that-no-data-contains';
          const body = Buffer.concat([
            ...fields.map((one) =>
              partOf(
                boundary,
                `Content-Disposition: form-data; name="${one.name}"`,
                Buffer.from(one.value.toWellFormed()),
              ),
            ),
            ...contents.map((bytes) =>
              partOf(
                boundary,
                'Content-Disposition: form-data; name="file"; filename="f"',
                Buffer.from(bytes),
              ),
            ),
            Buffer.from(`--${boundary}--\r\n`),
          ]);
          const form = await read(body, {
            sizes,
            contentType: `multipart/form-data; boundary="${boundary}"`,
          });
          // A byte order mark at the start of a text is not part of it.
          expect([...form.fields]).toEqual(
            fields.map((one) => [one.name, one.value.toWellFormed().replace(/^\ufeff/, '')]),
          );
          expect(form.files.map((one) => one.bytes.toString('hex'))).toEqual(
            contents.map((bytes) => Buffer.from(bytes).toString('hex')),
          );
        },
      ),
      { numRuns: 300 },
    );
  });

  test('as Node’s own FormData writes it is read as it was meant', async () => {
    const data = new FormData();
    data.set('task', 'x');
    data.append('file', new File(['one'], 'naïve "1".txt', { type: 'text/plain' }));
    data.append('file', new File(['two'], '日本.bin'));
    const sent = new Response(data);
    const body = Buffer.from(await sent.arrayBuffer());
    const form = await read(body, { size: 7, contentType: sent.headers.get('content-type') ?? '' });
    expect(form.files.map((one) => [one.fileName, one.mediaType, one.text])).toEqual([
      ['naïve %221%22.txt', 'text/plain', 'one'],
      ['日本.bin', 'application/octet-stream', 'two'],
    ]);
  });
});

describe('limits (ASVS 5.2.1, 5.2.4)', () => {
  const repeat = (count: number, make: (i: number) => string) =>
    Array.from({ length: count }, (_, i) => make(i));

  test.for<[string, string, Partial<MultipartLimits>, string, string]>([
    [
      '21 parts',
      formOf(repeat(21, (i) => field(`f${i}`, ''))),
      {},
      'content-too-large',
      'more than 20 parts',
    ],
    [
      'a thousand parts in one write',
      formOf(repeat(1_000, (i) => file(`f${i}`, 'x'))),
      { filesMax: 2_000 },
      'content-too-large',
      'more than 20 parts',
    ],
    [
      '11 files',
      formOf(repeat(11, () => file('a', 'x'))),
      {},
      'content-too-large',
      'more than 10 files (WINDLASS_FILES_PER_REQUEST_MAX)',
    ],
    [
      '101 fields',
      formOf(repeat(101, (i) => field(`f${i}`, ''))),
      { partsMax: 200 },
      'content-too-large',
      'more than 100 fields',
    ],
    [
      'a field of one byte too many',
      formOf([field('input', 'x'.repeat(11))]),
      { fieldBytesMax: 10 },
      'content-too-large',
      '"input" is larger than 10 bytes (WINDLASS_JSON_BYTES_MAX)',
    ],
    [
      '33 headers',
      formOf([`${repeat(32, (i) => `X-${i}: y`).join('\r\n')}\r\n${field('a', '')}`]),
      {},
      'content-too-large',
      'more than 32 headers',
    ],
    [
      'headers of 17 kB',
      formOf([`X: ${'y'.repeat(17_000)}\r\n${field('a', '')}`]),
      {},
      'content-too-large',
      'larger than 16384 bytes',
    ],
    [
      'headers of 17 kB after the name',
      formOf([`Content-Disposition: form-data; name="a"\r\nX: ${'y'.repeat(17_000)}\r\n\r\nz`]),
      {},
      'content-too-large',
      'larger than 16384 bytes',
    ],
    [
      'headers without end',
      `--b\r\nX: ${'y'.repeat(1_000_000)}`,
      {},
      'invalid-multipart',
      'before its closing boundary',
    ],
    [
      'a name of 101 bytes',
      formOf([field('x'.repeat(101), '')]),
      {},
      'invalid-multipart',
      'longer than 100 bytes',
    ],
    ['a nested name', formOf([field('a[b][c]', '')]), {}, 'invalid-multipart', '"a[b][c]" has a nested name'],
    [
      'a very deeply nested name',
      formOf([field(`a${'[b]'.repeat(30)}`, '')]),
      {},
      'invalid-multipart',
      'nested',
    ],
  ])('%s are refused', async ([, body, over, code, message]) => {
    expect(await refusalOf(read(body, { limits: { ...limits, ...over } }))).toMatchObject({
      code: code,
      message: expect.stringContaining(message),
    });
  });

  test.for<[string, string, Partial<MultipartLimits>]>([
    ['20 parts', formOf(repeat(20, (i) => field(`f${i}`, ''))), {}],
    ['10 files', formOf(repeat(10, () => file('a', 'x'))), {}],
    ['a field of exactly the limit', formOf([field('input', 'x'.repeat(10))]), { fieldBytesMax: 10 }],
    ['32 headers', formOf([`${repeat(31, (i) => `X-${i}: y`).join('\r\n')}\r\n${field('a', '')}`]), {}],
    ['a name of 100 bytes', formOf([field('x'.repeat(100), '')]), {}],
  ])('%s are taken', async ([, body, over]) => {
    await expect(read(body, { limits: { ...limits, ...over } })).resolves.toBeDefined();
  });

  test('a limit that is passed ends the request at once, although the client would send on', async () => {
    const body = new PassThrough();
    const reading = readMultipart(body, {
      contentType,
      limits: { ...limits, fieldBytesMax: 10 },
      onFile: skip,
    });
    body.write(`--b\r\n${field('input', 'x'.repeat(11))}`);
    expect(await refusalOf(reading)).toMatchObject({
      code: 'content-too-large',
      message: expect.stringContaining('larger than 10 bytes'),
    });
    expect(body.destroyed).toBe(true);
  });
});

// Multer and dicer crashed, hung or leaked on bodies like these.
describe('a malformed form is an error, never a crash or a hang', () => {
  test.for<[string, string, string]>([
    ['nothing at all', '', 'before its closing boundary'],
    ['no boundary in the body', 'hello world', 'before its closing boundary'],
    ['only the opening boundary', '--b', 'before its closing boundary'],
    ['an opening boundary and a line', '--b\r\n', 'before its closing boundary'],
    ['ends within the headers', '--b\r\nContent-Disposition: form-da', 'before its closing boundary'],
    ['ends within a file', `--b\r\n${file('a', 'abc')}`, 'before its closing boundary'],
    ['ends within a field', `--b\r\n${field('a', 'abc')}`, 'before its closing boundary'],
    ['ends within the closing boundary', `--b\r\n${file('a', 'abc')}\r\n--b-`, 'before its closing boundary'],
    [
      'another boundary than announced',
      formOf([file('a', 'x')]).replaceAll('--b', '--c'),
      'before its closing boundary',
    ],
    [
      'a header line that begins with a space',
      '--b\r\n Content-Disposition: form-data; name="a"\r\n\r\n\r\n--b--',
      'Content-Disposition',
    ],
    ['a header without a colon', '--b\r\nContent-Disposition\r\n\r\nx\r\n--b--', 'Content-Disposition'],
    ['no headers', '--b\r\n\r\nx\r\n--b--', 'Content-Disposition'],
    ['a part that is only a line', '--b\r\nx\r\n--b--', 'ends within its headers'],
    ['an empty part', '--b\r\n--b--', 'ends within its headers'],
    ['no name', formOf(['Content-Disposition: form-data\r\n\r\nx']), 'Content-Disposition'],
    ['an empty name', formOf([field('', 'x')]), 'empty name'],
    [
      'an empty name with a file name',
      formOf(['Content-Disposition: form-data; name=""; filename="a"\r\n\r\nx']),
      'empty name',
    ],
    [
      'an unclosed quote',
      formOf(['Content-Disposition: form-data; name="file; filename="a"\r\n\r\nx']),
      'Content-Disposition',
    ],
    [
      'an attachment',
      formOf(['Content-Disposition: attachment; name="file"\r\n\r\nx']),
      'Content-Disposition',
    ],
    [
      'two dispositions',
      formOf([
        'Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="file"\r\n\r\nx',
      ]),
      'Content-Disposition',
    ],
    [
      'two names',
      formOf(['Content-Disposition: form-data; name="a"; name="file"\r\n\r\nx']),
      'Content-Disposition',
    ],
    [
      'a bare line break in a header',
      formOf(['Content-Disposition: form-data; name="a\nb"\r\n\r\nx']),
      'Content-Disposition',
    ],
    [
      'base64',
      formOf([
        'Content-Disposition: form-data; name="file"\r\nContent-Transfer-Encoding: base64\r\n\r\neA==',
      ]),
      'Content-Transfer-Encoding',
    ],
    [
      'the same field twice',
      formOf([field('task', 'a'), field('task', 'b')]),
      'The field "task" is there more than once',
    ],
    ['the same field twice, in capitals', formOf([field('task', 'a'), field('task', 'a')]), 'more than once'],
    ['a field that is not UTF-8', formOf([field('task', '\xff\xfe')]), 'The field "task" is not UTF-8'],
  ])('%s', async ([, body, message]) => {
    for (const size of [1, 3, 100_000]) {
      expect(await refusalOf(read(Buffer.from(body, 'latin1'), { size }))).toMatchObject({
        code: 'invalid-multipart',
        message: expect.stringContaining(message),
      });
    }
  });

  test('fields with the names of the prototype are fields', async () => {
    const form = await read(
      formOf([field('__proto__', 'a'), field('constructor', 'b'), field('toString', 'c')]),
    );
    expect([...form.fields]).toEqual([
      ['__proto__', 'a'],
      ['constructor', 'b'],
      ['toString', 'c'],
    ]);
    expect('polluted' in {}).toBe(false);
  });

  test.for<[string | undefined, string, string]>([
    [undefined, 'unsupported-media-type', 'multipart/form-data'],
    ['application/json', 'unsupported-media-type', 'multipart/form-data'],
    ['multipart/mixed; boundary=b', 'unsupported-media-type', 'multipart/form-data'],
    ['multipart/form-dataX; boundary=b', 'unsupported-media-type', 'multipart/form-data'],
    ['multipart/form-data', 'invalid-multipart', 'one boundary'],
    ['multipart/form-data; boundary=', 'invalid-multipart', 'one boundary'],
    ['multipart/form-data; boundary=""', 'invalid-multipart', 'one boundary'],
    [`multipart/form-data; boundary=${'x'.repeat(71)}`, 'invalid-multipart', 'one boundary'],
    [`multipart/form-data; boundary=${'x'.repeat(300)}`, 'invalid-multipart', 'one boundary'],
    ['multipart/form-data; boundary=b; boundary=c', 'invalid-multipart', 'one boundary'],
    ['multipart/form-data; boundary=\u00fc', 'invalid-multipart', 'one boundary'],
  ])('the Content-Type %j', async ([type, code, message]) => {
    const body = Readable.from([Buffer.from(formOf([field('a', 'x')]))]);
    expect(await refusalOf(readMultipart(body, { contentType: type, limits, onFile: skip }))).toMatchObject({
      code: code,
      message: expect.stringContaining(message),
    });
  });

  test('no bytes at all make it throw anything else than an AppError, or hang', async () => {
    const bits = [
      '--b',
      '\r\n',
      '\r',
      '\n',
      '-',
      '--',
      'b',
      ':',
      ';',
      '"',
      '=',
      ' ',
      'Content-Disposition: form-data; name="file"',
      'name=',
      'x',
      '\r\n\r\n',
      '\r\n--b\r\n',
      '\r\n--b--',
      '\0',
      'Content-Disposition: form-data; name="t"',
    ];
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...bits), { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1 }),
        async (pieces, sizes) => {
          const outcome = await read(pieces.join(''), { sizes }).then(
            () => 'form',
            (err: unknown) => (err instanceof AppError ? 'refused' : err),
          );
          expect(['form', 'refused']).toContain(outcome);
        },
      ),
      { numRuns: 3_000 },
    );
  });

  test('what it takes, busboy reads the same way', async () => {
    const bits = [
      '--b',
      '\r\n',
      '-',
      'x',
      'Content-Disposition: form-data; name="file"\r\n\r\n',
      'Content-Disposition: form-data; name="t"\r\n\r\n',
      '\r\n--b\r\n',
      '\r\n--b--',
    ];
    await fc.assert(
      fc.asyncProperty(fc.array(fc.constantFrom(...bits), { maxLength: 12 }), async (pieces) => {
        const body = `--b\r\n${pieces.join('')}\r\n--b--\r\n`;
        const form = await read(body).catch(() => undefined);
        if (!form) return;
        const theirs = await readWithBusboy(body);
        expect(theirs.fields).toEqual([...form.fields]);
        expect(theirs.files).toEqual(form.files.map((one) => one.text));
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('when something breaks off', () => {
  test('a body that fails fails the file being read, with the same error', async () => {
    const failure = new AppError('upload-incomplete', 'gone');
    const body = new PassThrough();
    const seen = Promise.withResolvers<unknown>();
    const reading = readMultipart(body, {
      contentType,
      limits,
      onFile: async ({ stream }) => {
        await buffer(stream).catch((err: unknown) => {
          seen.resolve(err);
          throw err;
        });
      },
    });
    body.write(`--b\r\n${file('a', 'abc')}`);
    await setImmediate();
    body.destroy(failure);
    await expect(reading).rejects.toBe(failure);
    expect(await seen.promise).toBe(failure);
  });

  test('an error of the reader ends the request with that error, although the client is silent', async () => {
    const failure = new AppError('storage-full', 'full');
    const body = new PassThrough();
    const reading = readMultipart(body, { contentType, limits, onFile: () => Promise.reject(failure) });
    body.write(`--b\r\n${file('a', 'abc')}`);
    await expect(reading).rejects.toBe(failure);
    expect(body.destroyed).toBe(true);
  });

  test('it waits until every reader has stopped before it throws', async () => {
    const gate = Promise.withResolvers<void>();
    let isSettled = false;
    const onFile = async ({ stream }: FilePart): Promise<void> => {
      await buffer(stream).catch(() => {});
      await gate.promise;
      isSettled = true;
    };
    const failed = refusalOf(readWith(onFile, `${formOf([file('a', 'abc')]).slice(0, -8)}\r\n--b\r\nbroken`));
    let isThrown = false;
    void failed.finally(() => (isThrown = true));
    for (let i = 0; i < 20; i += 1) await setImmediate();
    expect(isThrown).toBe(false);
    gate.resolve();
    expect(await failed).toMatchObject({ code: 'invalid-multipart' });
    expect(isSettled).toBe(true);
  });

  test('after the first thing that is wrong no further file is begun', async () => {
    let begun = 0;
    const onFile = async (part: FilePart): Promise<void> => {
      begun += 1;
      await skip(part);
    };
    const body = formOf([file('a', 'x'), field('a[b]', 'x'), file('b', 'x'), file('c', 'x')]);
    expect(await refusalOf(readWith(onFile, body))).toMatchObject({ code: 'invalid-multipart' });
    expect(begun).toBe(1);
  });

  test('a reader that fails while the client is held back ends the request', async () => {
    const failure = new AppError('storage-full', 'full');
    const onFile = async ({ stream }: FilePart): Promise<never> => {
      // The buffer fills, then nothing is read any more.
      while (stream.readableLength < 256 * 1024) await setImmediate();
      for (let i = 0; i < 20; i += 1) await setImmediate();
      stream.destroy();
      throw failure;
    };
    const body = Buffer.from(formOf([file('a', 'x'.repeat(4_000_000))]));
    await expect(readWith(onFile, body, { size: 65_536 })).rejects.toBe(failure);
  });

  test('a file that comes whole in one large piece is read', async () => {
    const onFile = async ({ stream }: FilePart): Promise<number> => {
      for (let i = 0; i < 20; i += 1) await setImmediate();
      return (await buffer(stream)).length;
    };
    const form = await readWith(onFile, formOf([file('a', 'x'.repeat(900_000)), field('task', 'x')]));
    expect(form).toEqual({ files: [900_000], fields: new Map([['task', 'x']]) });
  });

  test('a file that its reader leaves unread is skipped', async () => {
    const body = formOf([file('a', 'x'.repeat(1_000_000)), field('task', 'x')]);
    const form = await readWith(async () => 'skipped', body, { size: 65_536 });
    expect(form).toEqual({ files: ['skipped'], fields: new Map([['task', 'x']]) });
  });

  test('a slow reader slows the client down instead of filling memory', async () => {
    const total = 32 * 1024 * 1024;
    const chunk = randomBytes(64 * 1024);
    let sent = 0;
    let received = 0;
    let ahead = 0;
    const body = Readable.from(
      (async function* () {
        yield Buffer.from(`--b\r\n${file('a', '')}`);
        for (; sent < total; sent += chunk.length) {
          ahead = Math.max(ahead, sent - received);
          yield chunk;
        }
        yield Buffer.from('\r\n--b--\r\n');
      })(),
      { objectMode: true, highWaterMark: 1 },
    );
    await readMultipart(body, {
      contentType,
      limits,
      onFile: async ({ stream }) => {
        for await (const piece of stream as AsyncIterable<Buffer>) {
          received += piece.length;
          await setImmediate();
        }
      },
    });
    expect(received).toBe(total);
    expect(ahead).toBeLessThan(2 * 1024 * 1024);
  });

  test('a part that fills its buffer and ends in the same write does not stop the rest', async () => {
    // Dicer's own back-pressure waits for ever here.
    const [before, after] = formOf([file('a', `${'x'.repeat(64 * 1024 - 1)}\r`), field('task', 'x')]).split(
      '\r\r\n--b',
    );
    const form = await read([`${before}\r`, '\r\n--b', after ?? ''].map((text) => Buffer.from(text)));
    expect(form.files[0]?.bytes.length).toBe(64 * 1024);
    expect(form.fields.get('task')).toBe('x');
  });
});

function field(name: string, value: string): string {
  return `Content-Disposition: form-data; name="${name}"\r\n\r\n${value}`;
}

function file(name: string, content: string): string {
  return `Content-Disposition: form-data; name="file"; filename="${name}"\r\nContent-Type: application/octet-stream\r\n\r\n${content}`;
}

function formOf(parts: readonly string[]): string {
  return `${parts.map((part) => `--b\r\n${part}\r\n`).join('')}--b--\r\n`;
}

function partOf(boundary: string, header: string, bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`--${boundary}\r\n${header}\r\n\r\n`), bytes, Buffer.from('\r\n')]);
}

async function keep({ fileName, mediaType, stream }: FilePart) {
  const bytes = await buffer(stream);
  return Object.defineProperty({ fileName, mediaType, text: bytes.toString(), bytes }, 'bytes', {
    enumerable: false,
  });
}

async function skip({ stream }: FilePart): Promise<void> {
  for await (const _ of stream);
}

interface ReadOptions {
  contentType?: string;
  limits?: MultipartLimits;
  /** Cuts the body into pieces of this size, or of these sizes in turn. */
  size?: number;
  sizes?: number[];
}

async function read(body: string | Buffer | Buffer[], options: ReadOptions = {}) {
  return readWith(keep, body, options);
}

async function readWith<Stored>(
  onFile: (file: FilePart) => Promise<Stored>,
  body: string | Buffer | Buffer[],
  options: ReadOptions = {},
) {
  const bytes = typeof body === 'string' ? Buffer.from(body) : body;
  const chunks = Array.isArray(bytes) ? bytes : cut(bytes, options.sizes ?? [options.size ?? 1_000_000]);
  return readMultipart(Readable.from(chunks), {
    contentType: options.contentType ?? contentType,
    limits: options.limits ?? limits,
    onFile,
  });
}

function* cut(bytes: Buffer, sizes: number[]): Iterable<Buffer> {
  let at = 0;
  for (let i = 0; at < bytes.length; i += 1) {
    const size = sizes[i % sizes.length] ?? 1;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

/** What the client would be told. */
async function refusalOf(reading: Promise<unknown>): Promise<{ code: string; message: string } | undefined> {
  return reading.then(
    () => undefined,
    (err: unknown) => {
      if (err instanceof AppError) return { code: err.code, message: err.message };
      throw err;
    },
  );
}

async function readWithBusboy(body: string): Promise<{ fields: [string, string][]; files: string[] }> {
  const busboy = new Busboy({
    headers: { 'content-type': contentType },
    isPartAFile: (name) => name === 'file',
  });
  const fields: [string, string][] = [];
  const files: Promise<string>[] = [];
  busboy.on('field', (name, value) => void fields.push([name, value]));
  busboy.on('file', (_name, stream) => void files.push(buffer(stream).then(String)));
  await new Promise((resolve, reject) => {
    busboy.on('finish', resolve);
    busboy.on('error', reject);
    busboy.end(body);
  });
  return { fields, files: await Promise.all(files) };
}
