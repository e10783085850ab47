import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { jpegWithScans } from '#test/fixtures/make/hostile.ts';
import { countJpegScans } from './count-jpeg-scans.ts';
import { isGifComplete } from './is-gif-complete.ts';

const fixtures = join(import.meta.dirname, '../../test/fixtures');
let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'walk-'));
});
afterAll(() => rm(dir, { recursive: true }));

async function stored(bytes: Uint8Array): Promise<string> {
  const path = join(dir, 'file');
  await writeFile(path, bytes);
  return path;
}

describe('countJpegScans', () => {
  it('counts one in a baseline JPEG and what libjpeg writes in a progressive one', async () => {
    const photo = join(fixtures, 'photo.jpg');
    const progressive = await sharp(photo).jpeg({ progressive: true }).toBuffer();
    expect(await countJpegScans(photo, 100)).toBe(1);
    expect(await countJpegScans(await stored(progressive), 100)).toBe(10);
  });

  it('stops counting above the limit', async () => {
    expect(await countJpegScans(await stored(jpegWithScans(8, 8, 1_000)), 100)).toBe(101);
    expect(await countJpegScans(await stored(jpegWithScans(8, 8, 100)), 100)).toBe(100);
  });

  it('does not count the scans of a thumbnail, however large, nor what follows the image', async () => {
    const photo = await readFile(join(fixtures, 'photo.jpg'));
    const thumbnail = Buffer.alloc(65_533, Buffer.from([0xff, 0xda, 0, 2]));
    const segment = Buffer.concat([Buffer.from([0xff, 0xe1, 0xff, 0xff]), thumbnail]);
    const withThumbnails = Buffer.concat([
      photo.subarray(0, 2),
      segment,
      segment,
      photo.subarray(2),
      thumbnail,
    ]);
    expect(await countJpegScans(await stored(withThumbnails), 100)).toBe(1);
  });

  it('ends with a file that breaks off anywhere', async () => {
    const bytes = jpegWithScans(64, 64, 3);
    for (let length = 0; length < bytes.length; length += 1) {
      expect(await countJpegScans(await stored(bytes.subarray(0, length)), 100)).toBeLessThanOrEqual(3);
    }
  });
});

describe('isGifComplete', () => {
  it('is true for a whole file, also when only its trailer is missing or something follows it', async () => {
    const gif = await readFile(join(fixtures, 'animation.gif'));
    expect(await isGifComplete(await stored(gif))).toBe(true);
    expect(await isGifComplete(await stored(gif.subarray(0, -1)))).toBe(true);
    expect(await isGifComplete(await stored(Buffer.concat([gif, Buffer.from('more')])))).toBe(true);
  });

  it('is false for a file that ends within a frame', async () => {
    const gif = await readFile(join(fixtures, 'animation.gif'));
    expect(await isGifComplete(await stored(gif.subarray(0, -2)))).toBe(false);
    expect(await isGifComplete(await stored(gif.subarray(0, gif.length / 2)))).toBe(false);
  });
});
