import { describe, expect, it } from 'vitest';
import { sharp } from './safe-sharp.ts';

const image = sharp({ create: { width: 8, height: 8, channels: 3, background: '#c00' } });

describe('safe-sharp', () => {
  it.each(['jpeg', 'png', 'webp', 'gif', 'avif'] as const)('decodes %s', async (format) => {
    const bytes = await image.clone().toFormat(format).toBuffer();
    await expect(sharp(bytes).metadata()).resolves.toMatchObject({ width: 8, height: 8 });
  });

  it.each([
    ['TIFF', () => image.clone().tiff().toBuffer()],
    ['SVG', () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>')],
    ['PDF', () => Buffer.from('%PDF-1.4\n1 0 obj\n<< >>\nendobj\n')],
    ['PPM', () => Buffer.from('P3\n1 1\n255\n1 2 3\n')],
  ])('does not decode %s, although libvips could', async (_format, make) => {
    await expect(sharp(await make()).metadata()).rejects.toThrow('unsupported image format');
  });

  it('keeps nothing of one job for the next', () => {
    expect(sharp.cache()).toMatchObject({ memory: { max: 0 }, files: { max: 0 }, items: { max: 0 } });
    expect(sharp.concurrency()).toBe(1);
  });
});
