import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { runTask, testFile, type TaskRunOptions, type TestFile } from '#shared/tasks/testing.ts';
import { zip } from '#test/fixtures/make/zip.ts';
import handler from './handler.ts';
import { task, type Inspection } from './task.ts';

const fixtures = join(import.meta.dirname, '../../test/fixtures');

type Options = TaskRunOptions<typeof task.input, typeof task.output>;

async function inspect(
  file: TestFile,
  options: Pick<Options, 'signal' | 'onProgress'> = {},
): Promise<Inspection> {
  const run = await runTask({
    definition: task,
    handler,
    input: { file: file.id },
    files: [file],
    ...options,
  });
  return run.result;
}

const inspectFixture = (name: string, mediaType?: string): Promise<Inspection> =>
  inspect(testFile(join(fixtures, name), mediaType === undefined ? {} : { mediaType }));

const inspectText = (text: string | Buffer, mediaType = 'text/plain'): Promise<Inspection> =>
  inspect(testFile(Buffer.from(text), { mediaType }));

describe('file.inspect: any file', () => {
  it('gives size, checksums and both media types', async () => {
    const bytes = await readFile(join(fixtures, 'three-pages.pdf'));
    const result = await inspect(testFile(bytes, { name: 'report.doc', mediaType: 'application/msword' }));
    expect(result).toEqual({
      name: 'report.doc',
      sizeBytes: bytes.length,
      sha256: createHash('sha256').update(bytes).digest('hex'),
      md5: createHash('md5').update(bytes).digest('hex'),
      crc32: crc32(bytes).toString(16).padStart(8, '0'),
      mediaType: 'application/pdf',
      extension: 'pdf',
      declaredType: 'application/msword',
      isDeclaredTypeWrong: true,
      pdf: { version: '1.4', pages: 3, isEncrypted: false },
      warnings: [],
    });
  });

  it('knows the usual checksums', async () => {
    expect(await inspectText('123456789')).toMatchObject({
      crc32: 'cbf43926',
      md5: '25f9e794323b453885f5181f1b624d0b',
    });
    expect(await inspectText('')).toMatchObject({
      crc32: '00000000',
      md5: 'd41d8cd98f00b204e9800998ecf8427e',
    });
  });

  it('an empty file is an empty file', async () => {
    const result = await inspectText('', 'image/png');
    expect(result).toMatchObject({
      mediaType: 'application/x-empty',
      sizeBytes: 0,
      isDeclaredTypeWrong: false,
    });
    expect(result).not.toHaveProperty('text');
  });

  it.each([
    ['photo.jpg', 'image/jpeg', 'jpg'],
    ['photo.avif', 'image/avif', 'avif'],
    ['photo.heic', 'image/heic', 'heic'],
    ['animation.webp', 'image/webp', 'webp'],
    ['animation.gif', 'image/gif', 'gif'],
    ['logo-transparent.png', 'image/png', 'png'],
    ['tone.wav', 'audio/wav', 'wav'],
    ['silence.mp3', 'audio/mpeg', 'mp3'],
    ['film.mp4', 'video/mp4', 'mp4'],
    ['archive.zip', 'application/zip', 'zip'],
  ])('%s is %s', async (name, mediaType, extension) => {
    const result = await inspectFixture(name, mediaType);
    expect(result).toMatchObject({ mediaType, extension, isDeclaredTypeWrong: false, warnings: [] });
    expect(await inspectFixture(name, 'text/html')).toMatchObject({ mediaType, isDeclaredTypeWrong: true });
  });

  it('says nothing where the bytes say nothing', async () => {
    const result = await inspect(testFile(Buffer.from([0, 1, 2, 3, 250, 251, 252, 253])));
    expect(result).toMatchObject({ mediaType: 'application/octet-stream', isDeclaredTypeWrong: false });
    expect(result).not.toHaveProperty('extension');
  });

  it('stops when it is cancelled', async () => {
    await expect(inspect(testFile(Buffer.alloc(10)), { signal: AbortSignal.abort() })).rejects.toThrow(
      'aborted',
    );
  });
});

describe('file.inspect: text', () => {
  it.each([
    ['<svg xmlns="http://www.w3.org/2000/svg"/>', 'image/svg+xml'],
    [
      '<?xml version="1.0"?>\n<!-- hello -->\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x">\n<svg width="3">',
      'image/svg+xml',
    ],
    ['\ufeff<svg\nwidth="3"/>', 'image/svg+xml'],
    ['<!doctype html><svg></svg>', 'text/html'],
    ['<html><body>', 'text/html'],
    ['<?xml version="1.0"?><feed></feed>', 'application/xml'],
    ['{"a": [1, 2]}', 'application/json'],
    ['[]', 'application/json'],
    ['{"a": 1}\n{"a": 2}\n', 'application/x-ndjson'],
    ['{"a": 1,}', 'text/plain'],
    ['a,b,c\n1,2,3\n', 'text/csv'],
    ['a;b\n"x;y\nz";2', 'text/csv'],
    ['a\tb\n1\t2\n', 'text/tab-separated-values'],
    ['Hello, world.\nHow are you?\n', 'text/plain'],
    ['one line, two parts', 'text/plain'],
    ['BMW is not a bitmap', 'text/plain'],
    ['MZ is not a program', 'text/plain'],
    ['BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n', 'text/calendar'],
  ])('%j is %s', async (text, mediaType) => {
    expect(await inspectText(text)).toMatchObject({ mediaType, warnings: [] });
  });

  it('recognises JSON, JSON lines and CSV that are larger than what it looks at', async () => {
    const rows = Array.from({ length: 40_000 }, (_, row) => ({ row, name: `"n", ${row}` }));
    expect(await inspectText(JSON.stringify(rows))).toMatchObject({ mediaType: 'application/json' });
    expect(await inspectText(rows.map((row) => JSON.stringify(row)).join('\n'))).toMatchObject({
      mediaType: 'application/x-ndjson',
    });
    const csv = rows.map(({ row }) => `${row};"a;b"`).join('\r\n');
    expect(await inspectText(csv)).toMatchObject({
      mediaType: 'text/csv',
      text: { lineEnding: 'crlf', table: { delimiter: ';', columns: 2 } },
    });
  });

  it.each([
    ['plain', Buffer.from('plain\n'), 'us-ascii', false, 'lf'],
    ['accents', Buffer.from('naïve café\r\n'), 'utf-8', false, 'crlf'],
    ['UTF-8 with a mark', Buffer.from('\ufeffa\rb'), 'utf-8', true, 'cr'],
    ['a text of old Macs', Buffer.from('a\rb\r'), 'us-ascii', false, 'cr'],
    ['a CRLF cut in two', Buffer.from('a\r\nb\r'), 'us-ascii', false, 'crlf'],
    ['UTF-16 with a mark', Buffer.from('\ufeffhello', 'utf16le'), 'utf-16le', true, 'none'],
    ['UTF-16 without one', Buffer.from('hello wide world', 'utf16le'), 'utf-16le', false, 'none'],
    [
      'UTF-16, the other way round',
      Buffer.from('hello wide world', 'utf16le').swap16(),
      'utf-16be',
      false,
      'none',
    ],
    ['western Europe', Buffer.from('na\xefve caf\xe9\na\r\n', 'latin1'), 'windows-1252', false, 'mixed'],
    ['Cyrillic', Buffer.from('ef'.repeat(40) + '20' + 'f0'.repeat(40), 'hex'), 'unknown-8bit', false, 'none'],
  ] as const)('guesses the charset of %s', async (_name, bytes, charset, hasByteOrderMark, lineEnding) => {
    const { text } = await inspectText(bytes);
    expect(text).toEqual({ charset, hasByteOrderMark, lineEnding });
  });

  it('a character cut in two at the end of what it looks at does not make a text binary', async () => {
    expect(await inspectText('é'.repeat(200_000) + '.')).toMatchObject({ text: { charset: 'utf-8' } });
    expect(await inspectText(`x${'é'.repeat(200_000)}`)).toMatchObject({ text: { charset: 'utf-8' } });
  });
});

describe('file.inspect: images', () => {
  it('says upright size, orientation, camera, time and place of a photo', async () => {
    const { image } = await inspectFixture('portrait-gps.jpg');
    expect(image).toMatchObject({
      width: 320,
      height: 480,
      orientation: 6,
      frames: 1,
      hasAlpha: false,
      colourSpace: 'srgb',
      hasProfile: true,
      isProgressive: false,
      exif: {
        camera: 'Windlass Pocket 1',
        lens: 'Pocket 26mm f/1.8',
        takenAt: '2024-06-21T05:12:33+02:00',
        gps: { altitudeMetres: 34.5 },
        tags: { FNumber: 1.8, Software: 'make-fixtures' },
      },
    });
    expect(image?.exif?.gps?.latitude).toBeCloseTo(52.516333, 5);
    expect(image?.exif?.gps?.longitude).toBeCloseTo(13.377667, 5);
  });

  it('takes no time from a camera whose clock was not set', async () => {
    const photo = await readFile(join(fixtures, 'portrait-gps.jpg'));
    photo.write('0000:00:00 00:00:00', photo.indexOf('2024:06:21'), 'latin1');
    const { image } = await inspect(testFile(photo));
    expect(image?.exif?.camera).toBe('Windlass Pocket 1');
    expect(image?.exif).not.toHaveProperty('takenAt');
  });

  it.each([
    ['photo-rotated.heic', { width: 320, height: 480, frames: 1 }],
    ['animation.gif', { width: 60, height: 40, frames: 3, hasAlpha: true }],
    ['animation.webp', { width: 60, height: 40, frames: 3 }],
    ['logo-transparent.png', { width: 120, height: 80, hasAlpha: true }],
    ['photo.avif', { width: 480, height: 320 }],
  ])('%s', async (name, expected) => {
    expect((await inspectFixture(name)).image).toMatchObject(expected);
  });

  it('tells the size of a bomb without decoding it', async () => {
    expect(await inspectFixture('bomb-17000.avif')).toMatchObject({
      image: { width: 17_000, height: 17_000 },
      warnings: [],
    });
    expect(await inspectFixture('bomb-scans.jpg')).toMatchObject({
      image: { isProgressive: true },
      warnings: [],
    });
  });

  it('warns of a damaged header without a word about paths', async () => {
    const jpeg = await readFile(join(fixtures, 'photo.jpg'));
    const result = await inspect(testFile(jpeg.subarray(0, 100)));
    expect(result.mediaType).toBe('image/jpeg');
    expect(result).not.toHaveProperty('image');
    expect(result.warnings).toHaveLength(1);
    expect(result.warnings[0]).toMatch(/^The image\/jpeg could not be read: /);
    const avif = await readFile(join(fixtures, 'photo.avif'));
    expect((await inspect(testFile(avif.subarray(0, 100)))).warnings.join()).not.toContain('windlass-task-');
  });
});

describe('file.inspect: sound and film', () => {
  it.each([
    [
      'tone.wav',
      {
        container: 'WAVE',
        durationSeconds: 0.5,
        bitsPerSecond: 128_000,
        audio: { codec: 'PCM', sampleRateHz: 8_000, channels: 1 },
      },
    ],
    [
      'silence.mp3',
      {
        container: 'MPEG',
        durationSeconds: (40 * 1_152) / 44_100,
        bitsPerSecond: 32_000,
        audio: { codec: 'MPEG 1 Layer 3', sampleRateHz: 44_100, channels: 1 },
        title: 'Silence',
      },
    ],
    [
      'film.mp4',
      {
        container: 'isom/iso2/avc1/mp41',
        durationSeconds: 2,
        audio: { codec: 'MPEG-4/AAC', sampleRateHz: 44_100, channels: 2 },
        video: { codec: 'avc1', width: 640, height: 360 },
      },
    ],
  ])('%s', async (name, media) => {
    expect((await inspectFixture(name)).media).toEqual(media);
  });

  it('finds the directory of a film at its end', async () => {
    const film = await readFile(join(fixtures, 'film.mp4'));
    const moov = film.indexOf('moov') - 4;
    const end = moov + film.readUInt32BE(moov);
    const last = Buffer.concat([film.subarray(0, moov), film.subarray(end), film.subarray(moov, end)]);
    expect((await inspect(testFile(last))).media).toMatchObject({
      durationSeconds: 2,
      video: { width: 640 },
    });
  });

  it('55 bytes that hold an object of size zero end in an answer', async () => {
    const result = await inspectFixture('stands-still.asf', 'video/x-ms-asf');
    expect(result).toMatchObject({ mediaType: 'application/octet-stream', sizeBytes: 55 });
  });

  it('noise behind the beginning of an MP3 is read until the job is cancelled, and no longer', async () => {
    const noise = Buffer.concat([Buffer.from([0xff, 0xfb, 0x90, 0xc0]), Buffer.alloc(30_000_000, 0xff)]);
    const controller = new AbortController();
    let cancelledAt = 0;
    // On the next turn of the event loop, when the parser is at work: it would take minutes for all of this.
    const onProgress = (_percent: number, message?: string): void => {
      if (message !== 'inspecting') return;
      setTimeout(() => {
        cancelledAt = performance.now();
        controller.abort(new Error('cancelled'));
      }, 0);
    };
    const running = inspect(testFile(noise), { signal: controller.signal, onProgress });
    await expect(running).rejects.toThrow('cancelled');
    // By the cancel, and not by the parser's own limit of 30 s.
    expect(performance.now() - cancelledAt).toBeLessThan(25_000);
  });

  it('what may be text in an old charset and has a magic number is what the number says', async () => {
    const noise = Buffer.concat([
      Buffer.from([0xff, 0xfb, 0x90, 0xc0]),
      Buffer.alloc(400, '\xfe ', 'latin1'),
    ]);
    expect((await inspect(testFile(noise))).mediaType).toBe('audio/mpeg');
  });

  it('a film that claims to be larger than its file is a warning', async () => {
    const film = await readFile(join(fixtures, 'film.mp4'));
    film.writeUInt32BE(0x7fff_ffff, film.indexOf('moov') - 4);
    const result = await inspect(testFile(film));
    expect(result.warnings[0]).toMatch(/^The video\/mp4 could not be read: /);
    expect(result).not.toHaveProperty('media');
  });
});

describe('file.inspect: archives', () => {
  it('lists a ZIP archive as it describes itself', async () => {
    expect((await inspectFixture('archive.zip')).archive).toEqual({
      entries: 3,
      uncompressedBytes: 18,
      isEncrypted: false,
      names: ['readme.txt', 'data/numbers.csv', '../escape.txt'],
    });
  });

  it('tells the size of a bomb without unpacking it', async () => {
    expect(await inspectFixture('bomb.zip')).toMatchObject({
      sizeBytes: expect.toSatisfy((size: number) => size < 30_000),
      archive: { entries: 1, uncompressedBytes: 20_000_000 },
    });
  });

  it('lists no more than 100 names', async () => {
    const entries = Array.from({ length: 150 }, (_, index) => ({
      name: `file-${index}`,
      bytes: Buffer.alloc(10),
    }));
    const { archive } = await inspect(testFile(zip(entries)));
    expect(archive).toMatchObject({ entries: 150, uncompressedBytes: 1_500 });
    expect(archive?.names).toHaveLength(100);
  });

  it('warns of a picture that is an archive as well', async () => {
    const result = await inspectFixture('jpeg-and-zip.jpg', 'image/jpeg');
    expect(result).toMatchObject({ mediaType: 'image/jpeg', image: { width: 480 } });
    expect(result.warnings).toEqual(['Behind the image/jpeg there is a ZIP archive.']);
    expect(result).not.toHaveProperty('archive');
  });

  it('warns of an archive that was cut off, and of one that lies about its entries', async () => {
    const archive = await readFile(join(fixtures, 'archive.zip'));
    const cut = await inspect(testFile(archive.subarray(0, -30)));
    expect(cut.warnings).toEqual(['The archive has no directory: it was cut off, or is damaged.']);
    const lie = Buffer.from(archive);
    lie.writeUInt16LE(60_000, lie.length - 12);
    expect((await inspect(testFile(lie))).warnings).toEqual([
      'The archive says that it has 60000 entries, but 3 were found.',
    ]);
  });

  it('knows an office document from an archive', async () => {
    const docx = zip([
      {
        name: '[Content_Types].xml',
        bytes: Buffer.from(
          '<Types><Override ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
        ),
      },
      { name: 'word/document.xml', bytes: Buffer.from('<w/>') },
    ]);
    expect(await inspect(testFile(docx))).toMatchObject({ extension: 'docx', archive: { entries: 2 } });
  });
});

describe('file.inspect: PDF', () => {
  it('leaves the pages out where they are in a compressed object', async () => {
    const { pdf } = await inspectText(
      '%PDF-1.7\n1 0 obj\n<< /Type /ObjStm >>\nendobj\ntrailer << /Encrypt 5 0 R >>\n%%EOF',
    );
    expect(pdf).toEqual({ version: '1.7', isEncrypted: true });
  });

  it('takes the root of a page tree, not one of its branches', async () => {
    const nodes = [
      '<< /Type /Pages /Kids [2 0 R 3 0 R] /Count 12 >>',
      '<< /Type /Pages /Parent 1 0 R /Count 5 >>',
      '<< /Count 7 /Parent 1 0 R /Type /Pages >>',
    ];
    const { pdf } = await inspectText(
      `%PDF-1.4\n${nodes.map((node, id) => `${id + 1} 0 obj\n${node}\nendobj\n`).join('')}`,
    );
    expect(pdf?.pages).toBe(12);
  });

  it('reads the table of a file made for the web', async () => {
    const { pdf } = await inspectText('%PDF-1.5\n1 0 obj\n<< /Linearized 1 /L 999 /N 42 >>\nendobj\n');
    expect(pdf?.pages).toBe(42);
  });
});

describe('file.inspect: hostile bytes', () => {
  it('every file has an answer', async () => {
    const starts = [
      'photo.jpg',
      'photo.avif',
      'photo.heic',
      'animation.gif',
      'animation.webp',
      'logo-transparent.png',
      'silence.mp3',
      'film.mp4',
      'three-pages.pdf',
      'archive.zip',
      'stands-still.asf',
      'tone.wav',
    ];
    const originals = await Promise.all(starts.map((name) => readFile(join(fixtures, name))));
    const damage = fc.record({
      original: fc.constantFrom(...originals),
      keep: fc.double({ min: 0, max: 1, noNaN: true }),
      writes: fc.array(
        fc.record({
          at: fc.double({ min: 0, max: 0.999, noNaN: true }),
          bytes: fc.uint8Array({ minLength: 1, maxLength: 4 }),
        }),
        { maxLength: 8 },
      ),
    });
    await fc.assert(
      fc.asyncProperty(damage, async ({ original, keep, writes }) => {
        const bytes = Buffer.from(original.subarray(0, Math.ceil(original.length * keep)));
        for (const write of writes)
          bytes.set(
            write.bytes.subarray(0, bytes.length - Math.floor(write.at * bytes.length)),
            Math.floor(write.at * bytes.length),
          );
        const result = await inspect(testFile(bytes));
        expect(result.sizeBytes).toBe(bytes.length);
        expect(JSON.stringify(result)).not.toContain('\\u0000');
      }),
      { numRuns: 150 },
    );
  });

  it('a bomb inside gzip is just gzip', async () => {
    expect(await inspect(testFile(gzipSync(Buffer.alloc(10_000_000))))).toMatchObject({
      mediaType: 'application/gzip',
      warnings: [],
    });
  });

  it('a PNG with much EXIF is a warning', async () => {
    const plain = await sharp({ create: { width: 2, height: 2, channels: 3, background: '#000' } })
      .png()
      .toBuffer();
    const body = Buffer.concat([
      Buffer.from('eXIf'),
      Buffer.from('II*\0\x08\0\0\0\0\0', 'latin1'),
      Buffer.alloc(1_100_000),
    ]);
    const exif = Buffer.alloc(body.length + 8);
    exif.writeUInt32BE(body.length - 4, 0);
    body.copy(exif, 4);
    exif.writeUInt32BE(crc32(body), body.length + 4);
    const end = plain.length - 12;
    const result = await inspect(
      testFile(Buffer.concat([plain.subarray(0, 33), exif, plain.subarray(33, end), plain.subarray(end)])),
    );
    expect(result.warnings.join()).toContain('more than 1048576 are not read');
    expect(result.image).toMatchObject({ width: 2 });
  });
});
