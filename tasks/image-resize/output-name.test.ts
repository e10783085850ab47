import { describe, expect, it } from 'vitest';
import { outputName } from './output-name.ts';

describe('outputName', () => {
  it.each([
    ['cat.jpg', 'cat.webp'],
    ['Cat.final.JPEG', 'Cat.final.webp'],
    ['cat', 'cat.webp'],
    ['.hidden', '.hidden.webp'],
    ['a/b/../cat.png', 'cat.webp'],
    ['', '.webp'],
  ])('%j becomes %j', (source, name) => {
    expect(outputName(source, 'webp')).toBe(name);
  });

  it('stays within the 255 bytes of a file name without cutting a character in two', () => {
    const name = outputName(`${'é🙂'.repeat(100)}.png`, 'avif');
    expect(Buffer.byteLength(name)).toBeLessThanOrEqual(255);
    expect(Buffer.byteLength(name)).toBeGreaterThan(248);
    expect(name.isWellFormed()).toBe(true);
    expect(name.endsWith('.avif')).toBe(true);
  });
});
