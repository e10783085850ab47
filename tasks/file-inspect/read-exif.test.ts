import { describe, expect, it } from 'vitest';
import { exifListMax, exifStringMax, exifTagsMax, readExif, sanitise } from './read-exif.ts';

const ascii = 2;
const short = 3;
const undefinedBytes = 7;

interface Tag {
  readonly id: number;
  readonly type: typeof ascii | typeof short | typeof undefinedBytes;
  readonly data: Buffer;
}

/** A TIFF structure with one directory, as in the APP1 segment of a JPEG. */
function exifOf(tags: readonly Tag[]): Buffer {
  const directory = Buffer.alloc(2 + tags.length * 12 + 4);
  directory.writeUInt16LE(tags.length, 0);
  const values: Buffer[] = [];
  let valueAt = 8 + directory.length;
  for (const [index, { id, type, data }] of tags.entries()) {
    const at = 2 + index * 12;
    directory.writeUInt16LE(id, at);
    directory.writeUInt16LE(type, at + 2);
    directory.writeUInt32LE(type === short ? data.length / 2 : data.length, at + 4);
    if (data.length <= 4) {
      data.copy(directory, at + 8);
    } else {
      directory.writeUInt32LE(valueAt, at + 8);
      values.push(data);
      valueAt += data.length;
    }
  }
  return Buffer.concat([Buffer.from('Exif\0\0II*\0\x08\0\0\0', 'latin1'), directory, ...values]);
}

const make = 0x010f;
const software = 0x0131;
const bitsPerSample = 0x0102;
const text = (id: number, value: string): Tag => ({ id, type: ascii, data: Buffer.from(`${value}\0`) });

describe('readExif', () => {
  it('cuts strings at 200 characters and takes control characters out of them', async () => {
    const warnings: string[] = [];
    const exif = await readExif(
      exifOf([text(make, 'x'.repeat(5_000)), text(software, 'a\u0007b\u001b[31mc')]),
      warnings,
    );
    expect(exif?.tags['Make']).toHaveLength(exifStringMax);
    expect(exif?.tags['Software']).toBe('ab[31mc');
    expect(warnings).toEqual([]);
  });

  it('drops binary values and long lists', async () => {
    const list = (length: number): Tag => ({
      id: bitsPerSample,
      type: short,
      data: Buffer.alloc(length * 2, 1),
    });
    const unknown: Tag = { id: 0xa302, type: undefinedBytes, data: Buffer.alloc(50_000, 7) };
    const long = await readExif(exifOf([list(exifListMax + 1), text(make, 'Acme'), unknown]), []);
    expect(long?.tags).toEqual({ Make: 'Acme' });
    const few = await readExif(exifOf([list(3)]), []);
    expect(few?.tags).toEqual({ BitsPerSample: [257, 257, 257] });
  });

  it('keeps no more than 100 tags, and none with a name that is not one', () => {
    const values = Object.fromEntries(Array.from({ length: 150 }, (_, index) => [`Tag${index}`, index]));
    expect(Object.keys(sanitise({ 513: 'no name', 'a b': 'nor this', ...values }))).toHaveLength(exifTagsMax);
    expect(sanitise({ 513: 'no name', 'a b': 'nor this', Yes: true, Infinite: Infinity })).toEqual({
      Yes: true,
    });
  });

  it('warns of what is no EXIF', async () => {
    const warnings: string[] = [];
    expect(await readExif(Buffer.from('Exif\0\0nonsense'), warnings)).toBeUndefined();
    expect(warnings).toEqual(['The EXIF data is damaged.']);
  });
});
