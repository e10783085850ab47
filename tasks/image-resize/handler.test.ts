import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp, { type Sharp } from 'sharp';
import { describe, expect, it } from 'vitest';
import { InvalidInputError, z } from '#shared/tasks/define-task.ts';
import { runTask, testFile, type TaskRunOptions, type TestFile } from '#shared/tasks/testing.ts';
import { gifAnnouncing, jpegWithScans } from '#test/fixtures/make/hostile.ts';
import handler from './handler.ts';
import { outputFormats, task } from './task.ts';

const fixtures = join(import.meta.dirname, '../../test/fixtures');
const fixture = (name: string): TestFile => testFile(join(fixtures, name));

type Options = TaskRunOptions<typeof task.input, typeof task.output>;
type Colour = string | { r: number; g: number; b: number };
type Request = Partial<Omit<z.input<typeof task.input>, 'file'>>;

/** Runs the task on one file; `pixel` looks into the image that came out. */
async function resize(
  file: TestFile,
  request: Request,
  options: Pick<Options, 'signal' | 'onProgress'> = {},
) {
  const input = { file: file.id, ...request };
  const run = await runTask({ definition: task, handler, input, files: [file], ...options });
  const { bytes } = run.output(run.result.file);
  return { ...run, bytes, metadata: await sharp(bytes).metadata(), pixel: await pixelReader(sharp(bytes)) };
}

/** What the one who submitted the job is told. */
async function refusal(file: TestFile, request: Request = { width: 10 }): Promise<string> {
  const answer = await resize(file, request).catch((err: unknown) => err);
  expect(answer).toBeInstanceOf(InvalidInputError);
  return answer instanceof Error ? answer.message : '';
}

async function pixelReader(image: Sharp): Promise<(x: number, y: number) => number[]> {
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return (x, y) => [
    ...data.subarray((y * info.width + x) * info.channels, (y * info.width + x + 1) * info.channels),
  ];
}

const plain = (background: Colour, channels: 3 | 4 = 3, side = 64): Sharp =>
  sharp({ create: { width: side, height: side, channels, background } });

/** The largest difference of a channel. */
const distance = (one: readonly number[], other: readonly number[]): number =>
  Math.max(...other.map((value, channel) => Math.abs((one[channel] ?? 999) - value)));

/** 60 × 40: red top left, green top right, blue bottom left, white bottom right. */
const quarters = async (): Promise<Sharp> => {
  const quarter = (background: string): Promise<Buffer> =>
    sharp({ create: { width: 30, height: 20, channels: 3, background } })
      .png()
      .toBuffer();
  const [red, green, blue] = await Promise.all([quarter('#ff0000'), quarter('#00ff00'), quarter('#0000ff')]);
  const composed = await sharp({ create: { width: 60, height: 40, channels: 3, background: '#ffffff' } })
    .composite([
      { input: red, left: 0, top: 0 },
      { input: green, left: 30, top: 0 },
      { input: blue, left: 0, top: 20 },
    ])
    .removeAlpha()
    .png()
    .toBuffer();
  return sharp(composed);
};

/** Frames that are alike are merged by the encoder, so each has a dot of its own. */
const animation = (frames: number, side: number): Promise<Buffer> => {
  const pixels = side * side;
  const raw = Buffer.alloc(pixels * frames * 3);
  for (let frame = 0; frame < frames; frame += 1) raw[(frame * pixels + (frame % pixels)) * 3] = 255;
  return sharp(raw, { raw: { width: side, height: side * frames, channels: 3, pageHeight: side } })
    .gif({ effort: 1 })
    .toBuffer();
};

describe('image.resize: size', () => {
  it.each([
    [{ width: 120 }, 120, 80],
    [{ height: 80 }, 120, 80],
    [{ width: 100, height: 100 }, 100, 100],
    [{ width: 100, height: 100, fit: 'contain' }, 100, 100],
    [{ width: 100, height: 100, fit: 'fill' }, 100, 100],
    [{ width: 100, height: 100, fit: 'inside' }, 100, 67],
    [{ width: 100, height: 100, fit: 'outside' }, 150, 100],
    [{ width: 960, withoutEnlargement: true }, 480, 320],
    [{ format: 'png' }, 480, 320],
  ] as const)('%j of 480 × 320 gives %i × %i', async (request, width, height) => {
    const { result, metadata } = await resize(fixture('photo.jpg'), request);
    expect(result).toMatchObject({ width, height });
    expect(metadata).toMatchObject({ width, height });
  });

  it('keeps the part of the image that `position` names', async () => {
    const file = testFile(await (await quarters()).png().toBuffer());
    const west = await resize(file, { width: 20, height: 40, position: 'west' });
    const northeast = await resize(file, { width: 20, height: 40, position: 'northeast' });
    expect(west.pixel(5, 5)).toEqual([255, 0, 0]);
    expect(northeast.pixel(15, 5)).toEqual([0, 255, 0]);
  });

  it('reads a file of more than 8 MiB as well, and sees that one is incomplete', async () => {
    const image = await plain('#00ff00', 3, 1_700).png({ compressionLevel: 0 }).toBuffer();
    expect(image.length).toBeGreaterThan(8 * 1024 * 1024);
    const { pixel, result } = await resize(testFile(image), { width: 16 });
    expect(result.source).toMatchObject({ format: 'png', width: 1_700, height: 1_700 });
    expect(pixel(8, 8)).toEqual([0, 255, 0]);
    expect(await refusal(testFile(image.subarray(0, -4_096)))).toContain('damaged or incomplete');
  });

  it('fills what `contain` adds with the background', async () => {
    const file = testFile(await plain('#000000').png().toBuffer());
    const request = { width: 128, height: 64, fit: 'contain' } as const;
    expect((await resize(file, request)).pixel(2, 2)).toEqual([255, 255, 255]);
    expect((await resize(file, { ...request, background: '#102030' })).pixel(2, 2)).toEqual([16, 32, 48]);
    expect((await resize(file, { ...request, background: 'transparent' })).pixel(2, 2)[3]).toBe(0);
    const jpeg = await resize(file, { ...request, background: 'transparent', format: 'jpeg' });
    expect(jpeg.pixel(2, 2)).toEqual([255, 255, 255]);
  });

  it('says what came in and what went out, and names the file after its source', async () => {
    const file = testFile(join(fixtures, 'photo.jpg'), { name: 'Hills at 6.30.JPEG' });
    const { result, bytes, outputs } = await resize(file, { width: 120, format: 'webp' });
    expect(result).toEqual({
      file: outputs[0]?.id,
      name: 'Hills at 6.30.webp',
      format: 'webp',
      mediaType: 'image/webp',
      width: 120,
      height: 80,
      frames: 1,
      sizeBytes: bytes.length,
      source: { format: 'jpeg', width: 480, height: 320, frames: 1 },
    });
    expect(outputs).toMatchObject([{ name: 'Hills at 6.30.webp', mediaType: 'image/webp' }]);
  });
});

describe('image.resize: formats', () => {
  const sources = [
    'photo.jpg',
    'logo-transparent.png',
    'animation.webp',
    'photo.avif',
    'animation.gif',
    'photo.heic',
  ];
  const pairs = sources.flatMap((source) => outputFormats.map((format) => [source, format] as const));

  it.each(pairs)('%s becomes %s', async (source, format) => {
    const { result, metadata, outputs } = await resize(fixture(source), { width: 30, format });
    expect(metadata.mediaType).toBe(`image/${format}`);
    expect(outputs[0]?.mediaType).toBe(`image/${format}`);
    expect(metadata.width).toBe(30);
    expect(result).toMatchObject({ format, width: 30, frames: metadata.pages ?? 1 });
  });

  it('adds no transparency to HEIC', async () => {
    for (const format of ['png', 'webp', 'avif'] as const) {
      const { metadata } = await resize(fixture('photo.heic'), { width: 30, format });
      expect(metadata.hasAlpha).toBe(false);
    }
  });

  it('keeps the format, and writes JPEG for HEIC', async () => {
    expect((await resize(fixture('photo.avif'), { width: 30 })).result.name).toBe('photo.avif');
    expect((await resize(fixture('photo.heic'), { width: 30 })).result.name).toBe('photo.jpg');
  });

  it('goes by the bytes and not by the name', async () => {
    const png = testFile(await plain('#00ff00').png().toBuffer(), {
      name: 'liar.gif',
      mediaType: 'image/gif',
    });
    expect((await resize(png, { width: 8 })).result).toMatchObject({ name: 'liar.png', format: 'png' });
  });

  it.each(['gif', 'webp'] as const)('an animation stays animated as %s, with its times', async (format) => {
    for (const source of ['animation.gif', 'animation.webp']) {
      const { result, metadata, logs } = await resize(fixture(source), { width: 30, format });
      expect(result).toMatchObject({ frames: 3, width: 30, height: 20 });
      expect(metadata).toMatchObject({ pages: 3, delay: [100, 200, 300], loop: 0 });
      expect(logs).toEqual([]);
    }
  });

  it('takes the first frame of an animation where the format has no more, and says so', async () => {
    const { result, logs, pixel } = await resize(fixture('animation.gif'), { format: 'png' });
    expect(result).toMatchObject({ frames: 1, width: 60, height: 40, source: { frames: 3 } });
    expect(pixel(10, 20).slice(0, 3)).toEqual([208, 32, 32]);
    expect(logs).toEqual(['A png image cannot be animated: only the first of 3 frames is used.']);
  });

  it('puts the background behind what is transparent when it writes JPEG', async () => {
    const white = await resize(fixture('logo-transparent.png'), { format: 'jpeg', quality: 100 });
    const green = await resize(fixture('logo-transparent.png'), {
      format: 'jpeg',
      quality: 100,
      background: '#00ff00',
    });
    expect(white.pixel(2, 2)).toEqual([255, 255, 255]);
    expect(green.pixel(2, 2)).toEqual([0, 255, 1]);
    expect((await resize(fixture('logo-transparent.png'), { format: 'webp' })).pixel(2, 2)[3]).toBe(0);
  });

  it('a lower quality and a higher effort make smaller files', async () => {
    const size = async (request: Request): Promise<number> =>
      (await resize(fixture('photo.jpg'), request)).result.sizeBytes;
    for (const format of ['jpeg', 'webp', 'avif'] as const) {
      expect(await size({ format, quality: 30 })).toBeLessThan(await size({ format, quality: 90 }));
    }
    for (const format of outputFormats) {
      expect(await size({ format, effort: 'small' })).toBeLessThanOrEqual(
        await size({ format, effort: 'fast' }),
      );
    }
  });
});

describe('image.resize: orientation', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])('EXIF orientation %i comes out upright', async (orientation) => {
    // What undoes each of the eight, from the table in EXIF 2.3, 4.6.4: mirrored or not, then turned.
    const isMirrored = [2, 4, 5, 7].includes(orientation);
    const turn = { 1: 0, 2: 0, 3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90 }[orientation] ?? 0;
    const upright = await quarters();
    const mirrored = await (isMirrored ? upright.flop() : upright).png().toBuffer();
    const turned = await sharp(mirrored).rotate(turn).png().toBuffer();
    const jpeg = await sharp(turned)
      .withMetadata({ orientation })
      .jpeg({ quality: 100, chromaSubsampling: '4:4:4' })
      .toBuffer();
    const { result, pixel, metadata } = await resize(testFile(jpeg), { format: 'png' });
    expect(result).toMatchObject({ width: 60, height: 40, source: { width: 60, height: 40 } });
    const near = (colour: number[]): string => colour.map((value) => (value > 127 ? 'f' : '0')).join('');
    expect([pixel(5, 5), pixel(55, 5), pixel(5, 35), pixel(55, 35)].map(near)).toEqual([
      'f00',
      '0f0',
      '00f',
      'fff',
    ]);
    expect(metadata.orientation).toBeUndefined();
  });

  it('a telephone picture is the same upright picture as JPEG and as HEIC', async () => {
    const request = { width: 64, format: 'png' } as const;
    for (const keepMetadata of [false, true]) {
      const jpeg = await resize(fixture('portrait-gps.jpg'), { ...request, keepMetadata });
      const heic = await resize(fixture('photo-rotated.heic'), { ...request, keepMetadata });
      expect(heic.result).toMatchObject({
        width: 64,
        height: 96,
        source: { format: 'heic', width: 320, height: 480 },
      });
      for (const [x, y] of [
        [10, 4],
        [50, 20],
        [32, 60],
        [32, 90],
      ] as const) {
        expect(distance(heic.pixel(x, y), jpeg.pixel(x, y))).toBeLessThan(12);
      }
      expect(heic.metadata.orientation).toBe(keepMetadata ? 1 : undefined);
    }
  });
});

describe('image.resize: metadata and colours', () => {
  const writable = ['jpeg', 'png', 'webp', 'avif'] as const;

  it.each(writable)('strips the GPS position, the camera and everything else from %s', async (format) => {
    for (const source of ['portrait-gps.jpg', 'photo.heic']) {
      const { metadata, bytes } = await resize(fixture(source), { width: 100, format });
      expect(metadata).not.toHaveProperty('exif');
      expect(metadata).not.toHaveProperty('xmp');
      expect(metadata).not.toHaveProperty('icc');
      expect(bytes.includes('Pocket 1')).toBe(false);
    }
  });

  it.each(writable)('keeps them in %s when asked to', async (format) => {
    for (const source of ['portrait-gps.jpg', 'photo.heic']) {
      const { metadata } = await resize(fixture(source), { width: 100, format, keepMetadata: true });
      expect(metadata.exif?.includes('Pocket 1')).toBe(true);
      expect(metadata.orientation ?? 1).toBe(1);
      expect(metadata.hasProfile).toBe(true);
    }
  });

  it('shows wide-gamut colours right after the profile is gone', async () => {
    const red = { r: 200, g: 40, b: 30 };
    const colour = await plain(red).png().toBuffer();
    const displayP3 = await sharp(colour).withIccProfile('p3').png().toBuffer();
    // The same colour has smaller numbers in the wider gamut, so taking them as they are would look pale.
    const numbers = (await pixelReader(sharp(displayP3).keepIccProfile()))(9, 9);
    expect(numbers[0]).toBeLessThan(190);
    const { pixel, metadata } = await resize(testFile(displayP3), { width: 32 });
    expect(distance(pixel(9, 9), [200, 40, 30])).toBeLessThan(3);
    expect(metadata.hasProfile).toBe(false);
  });

  it('HEIC colours go through their profile', async () => {
    const { pixel } = await resize(fixture('photo.heic'), { width: 48, format: 'png' });
    // The lake, as the picture that was encoded has it in sRGB.
    expect(distance(pixel(20, 24), [38, 82, 84])).toBeLessThan(8);
  });

  it.each(outputFormats)('CMYK becomes RGB in %s', async (format) => {
    const cmyk = await plain('#ffffff').toColourspace('cmyk').jpeg({ quality: 100 }).toBuffer();
    expect((await sharp(cmyk).metadata()).space).toBe('cmyk');
    const { metadata, pixel } = await resize(testFile(cmyk), { width: 32, format });
    expect(metadata.space).toBe('srgb');
    expect(pixel(9, 9).slice(0, 3)).toEqual([255, 255, 255]);
  });

  it.each(outputFormats)('16 bits become 8 in %s', async (format) => {
    const deep = await plain('#8040c0').toColourspace('rgb16').png().toBuffer();
    expect((await sharp(deep).metadata()).depth).toBe('ushort');
    const { metadata, pixel } = await resize(testFile(deep), { width: 32, format, quality: 100 });
    expect(metadata.depth).toBe('uchar');
    expect(distance(pixel(9, 9), [128, 64, 192])).toBeLessThan(4);
  });
});

describe('image.resize: what it refuses', () => {
  it('an AVIF of 277 bytes that claims 17,000 × 17,000 pixels is not decoded', async () => {
    expect(await refusal(fixture('bomb-17000.avif'))).toBe(
      '"bomb-17000.avif" has 17000 × 17000 pixels, 289 megapixels; at most 50 megapixels are allowed.',
    );
  });

  it('a progressive JPEG with a walk over the image for every coefficient is not decoded', async () => {
    expect(await refusal(fixture('bomb-scans.jpg'))).toContain('more than 100 scans');
    const usual = await resize(testFile(jpegWithScans(64, 64, 100)), { width: 8 });
    expect(usual.result.width).toBe(8);
    const progressive = await sharp(join(fixtures, 'photo.jpg')).jpeg({ progressive: true }).toBuffer();
    expect((await resize(testFile(progressive), { width: 48 })).result).toMatchObject({
      width: 48,
      height: 32,
    });
  });

  it('an image just above 50 megapixels', async () => {
    const image = sharp({
      create: { width: 7_072, height: 7_072, channels: 3, background: '#000' },
      limitInputPixels: false,
    });
    expect(await refusal(testFile(await image.png({ compressionLevel: 1 }).toBuffer()))).toContain(
      '7072 × 7072',
    );
  });

  it('an animation of more than 500 frames', async () => {
    expect(await refusal(testFile(gifAnnouncing(16, 16, 501)))).toContain('has 501 frames; at most 500');
    expect((await resize(testFile(await animation(500, 16)), { width: 8 })).result.frames).toBe(500);
  });

  it.each([
    [{ width: 16_384 }, 'The result would have 16384 × 16384 pixels; at most 50000000'],
    [{ width: 16_384, height: 1, format: 'webp' }, 'a side of a webp image has at most 16383'],
  ] as const)('a result that is too large: %j', async (request, message) => {
    expect(await refusal(testFile(await plain('#000').png().toBuffer()), request)).toContain(message);
  });

  it('a few pixels that would become millions of rows', async () => {
    const column = await sharp({ create: { width: 10, height: 5_000, channels: 3, background: '#000' } })
      .png()
      .toBuffer();
    expect(await refusal(testFile(column), { width: 9_000 })).toContain('9000 × 4500000');
  });

  it('an animation with too many pixels in all frames together', async () => {
    expect(await refusal(testFile(gifAnnouncing(7_000, 7_000, 5)))).toContain(
      'has 5 frames of 7000 × 7000 pixels, together 245 megapixels; at most 200 megapixels',
    );
  });

  it('a HEIC file that would fill the memory', async () => {
    const photo = await readFile(join(fixtures, 'photo.heic'));
    const padded = Buffer.concat([photo, Buffer.alloc(100_000_000)]);
    expect(await refusal(testFile(padded))).toContain('at most 100000000 are allowed');
  });

  it('an animation whose frames would become too many pixels together', async () => {
    const message = await refusal(testFile(await animation(5, 16)), { width: 7_000 });
    expect(message).toBe(
      'The result would have 7000 × 7000 pixels in each of 5 frames; at most 200000000 together are allowed.',
    );
  });

  it('choosing by content in an animation', async () => {
    expect(
      await refusal(fixture('animation.gif'), { width: 20, height: 20, position: 'attention' }),
    ).toContain('"position": "attention"');
    const still = await resize(fixture('animation.gif'), {
      width: 20,
      height: 20,
      position: 'attention',
      format: 'png',
    });
    expect(still.result).toMatchObject({ width: 20, height: 20 });
  });

  it.each([
    'photo.jpg',
    'logo-transparent.png',
    'animation.webp',
    'photo.avif',
    'animation.gif',
    'photo.heic',
  ])('%s cut off anywhere', async (name) => {
    const bytes = await readFile(join(fixtures, name));
    for (const share of [0.05, 0.5, 0.97]) {
      const cut = testFile(bytes.subarray(0, Math.floor(bytes.length * share)), { name });
      const message = await refusal(cut);
      expect(message).toMatch(/^".+" is damaged or incomplete/);
      // What the decoder says never leads back into the machine.
      expect(message).not.toContain('windlass-task-');
    }
  });

  it('an AVIF that is larger inside than its header says', async () => {
    const inside = await sharp({ create: { width: 2_000, height: 2_000, channels: 3, background: '#888' } })
      .avif({ effort: 0 })
      .toBuffer();
    const ispe = inside.indexOf('ispe');
    inside.writeUInt32BE(10, ispe + 8);
    inside.writeUInt32BE(10, ispe + 12);
    expect(await refusal(testFile(inside))).toContain('Image size 2000x2000 exceeds the maximum image size');
  });

  it.each([
    ['nothing', Buffer.alloc(0), '"cat.jpg" is empty.'],
    ['text', Buffer.from('just words, not an image'), 'is text'],
    ['a web page', Buffer.from('<!doctype html><script>alert(1)</script>'), 'is text'],
    [
      'SVG',
      Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
      'is an SVG drawing',
    ],
    ['PDF', join(fixtures, 'three-pages.pdf'), 'is PDF data (application/pdf)'],
    ['ZIP', join(fixtures, 'archive.zip'), 'is ZIP data (application/zip)'],
    ['sound', join(fixtures, 'tone.wav'), 'is WAV data (audio/wav)'],
    ['something that stops parsers', join(fixtures, 'stands-still.asf'), 'is'],
    ['noise', Buffer.from([0, 1, 2, 250, 251, 252, 0, 9]), 'is data of an unknown type'],
    ['a magic number and no more', Buffer.from([0xff, 0xd8, 0xff]), 'is damaged or incomplete'],
  ])('%s called cat.jpg', async (_what, source, message) => {
    expect(await refusal(testFile(source, { name: 'cat.jpg', mediaType: 'image/jpeg' }))).toContain(message);
  });

  it('TIFF and SVG, whatever libvips could do with them', async () => {
    const tiff = Buffer.from('49492a0008000000000000000000', 'hex');
    expect(await refusal(testFile(tiff, { name: 'scan.tif' }))).toContain(
      'an image must be JPEG, PNG, WebP, AVIF, GIF or HEIC',
    );
  });
});

describe('image.resize: input', () => {
  const file = '0199d7a3-1f5c-7cc0-8000-000000000000';

  it.each([
    [{ file }, 'Say what to do'],
    [{ file, withoutEnlargement: true }, 'Say what to do'],
    [{ file, width: 10, hieght: 10 }, 'hieght'],
    [{ file, width: 0 }, 'width'],
    [{ file, width: 1.5 }, 'width'],
    [{ file, width: '10' }, 'width'],
    [{ file, width: 20_000 }, 'width'],
    [{ file, width: 10, quality: 0 }, 'quality'],
    [{ file, width: 10, format: 'svg' }, 'format'],
    [{ file, width: 10, background: 'url(x)' }, 'background'],
    [{ file, width: 10, height: 10, fit: 'inside', position: 'attention' }, 'cover'],
    [{ width: 10 }, 'file'],
    [{ file: '../../etc/passwd', width: 10 }, 'file'],
  ])('%j is refused', (input, message) => {
    const parsed = task.input.safeParse(input);
    expect(parsed.success).toBe(false);
    expect(parsed.error === undefined ? '' : z.prettifyError(parsed.error)).toContain(message);
  });
});

describe('image.resize: cancel', () => {
  it('stops before the pixels when it was cancelled while reading', async () => {
    const seen: unknown[] = [];
    const onProgress = (_percent: number, message?: string) => seen.push(message);
    const signal = AbortSignal.abort(new Error('cancelled'));
    await expect(resize(fixture('photo.jpg'), { width: 10 }, { signal, onProgress })).rejects.toThrow(
      'cancelled',
    );
    expect(seen).toEqual([]);
  });

  it.each(['photo.jpg', 'photo.heic'])(
    'gives no file when it was cancelled while resizing %s',
    async (source) => {
      const controller = new AbortController();
      const onProgress = (_percent: number, message?: string) => {
        if (message === 'resizing') controller.abort(new Error('cancelled'));
      };
      await expect(
        resize(fixture(source), { width: 10 }, { signal: controller.signal, onProgress }),
      ).rejects.toThrow(/cancelled|aborted/);
    },
  );

  it('says when it has read the image', async () => {
    const { progress } = await resize(fixture('photo.jpg'), { width: 10 });
    expect(progress).toMatchObject([{ percent: 10, message: 'resizing' }]);
  });
});
