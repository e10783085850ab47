/**
 * EXIF as JSON that is fit to be stored and shown: cameras write binary notes of hundreds of kilobytes, and anyone
 * writes anything.
 */
import exifr from 'exifr';
import { cleanText } from '#shared/domain/text.ts';
import type { Inspection } from './task.ts';

export type Exif = NonNullable<NonNullable<Inspection['image']>['exif']>;

/** JPEG allows 64 KiB; the other formats set no limit. */
const exifBytesMax = 1024 * 1024;
export const exifTagsMax = 100;
export const exifStringMax = 200;
export const exifListMax = 16;

/** @returns undefined, with a warning, when it is too large or not EXIF. */
export async function readExif(bytes: Buffer, warnings: string[]): Promise<Exif | undefined> {
  if (bytes.length > exifBytesMax) {
    warnings.push(`The EXIF data has ${bytes.length} bytes; more than ${exifBytesMax} are not read.`);
    return undefined;
  }
  const values = await parseTags(withoutPrefix(bytes));
  if (values === undefined) {
    warnings.push('The EXIF data is damaged.');
    return undefined;
  }
  const tags = sanitise(values);
  const camera = [tags['Make'], tags['Model']].filter((part) => typeof part === 'string').join(' ');
  const takenAt = isoTime(
    tags['DateTimeOriginal'] ?? tags['CreateDate'],
    tags['OffsetTimeOriginal'] ?? tags['OffsetTime'],
  );
  const gps = position(values);
  return {
    ...(camera !== '' && { camera }),
    ...(typeof tags['LensModel'] === 'string' && { lens: tags['LensModel'] }),
    ...(takenAt !== undefined && { takenAt }),
    ...(gps !== undefined && { gps }),
    tags,
  };
}

async function parseTags(tiff: Buffer): Promise<Record<string, unknown> | undefined> {
  try {
    const parsed: unknown = await exifr.parse(tiff, {
      tiff: true,
      exif: true,
      gps: true,
      interop: false,
      ifd1: false,
      makerNote: false,
      userComment: false,
      // Times have no zone in EXIF; as a Date they would get that of this machine.
      reviveValues: false,
    });
    return typeof parsed === 'object' && parsed !== null ? { ...parsed } : undefined;
  } catch {
    return undefined;
  }
}

function withoutPrefix(exif: Buffer): Buffer {
  const prefix = 'Exif\0\0';
  return exif.toString('latin1', 0, prefix.length) === prefix ? exif.subarray(prefix.length) : exif;
}

/** Keeps named tags with text, numbers, yes or no, or a short list of them; drops binary values. */
export function sanitise(values: Readonly<Record<string, unknown>>): Exif['tags'] {
  const tags: [string, Exif['tags'][string]][] = [];
  for (const [name, value] of Object.entries(values)) {
    if (tags.length === exifTagsMax) break;
    if (!/^[A-Za-z]\w{0,63}$/.test(name)) continue;
    const items = listItems(value);
    const list = items === undefined ? cleanValue(value) : cleanList(items);
    if (list !== undefined) tags.push([name, list]);
  }
  return Object.fromEntries(tags);
}

/** Numbers come in arrays of their size; bytes are what binary values come in. */
function listItems(value: unknown): readonly unknown[] | undefined {
  if (Array.isArray(value)) return value;
  const isNumbers =
    value instanceof Uint16Array || value instanceof Uint32Array || value instanceof Int32Array;
  return isNumbers ? [...value] : undefined;
}

function cleanList(values: readonly unknown[]): (string | number)[] | undefined {
  if (values.length > exifListMax) return undefined;
  const cleaned = values
    .map(cleanValue)
    .filter((value) => typeof value === 'string' || typeof value === 'number');
  return cleaned.length === values.length ? cleaned : undefined;
}

function cleanValue(value: unknown): string | number | boolean | undefined {
  if (typeof value === 'string') return cleanText(value, exifStringMax).trim();
  if (typeof value === 'number') return Number.isFinite(value) ? value : undefined;
  return typeof value === 'boolean' ? value : undefined;
}

/** `2024:06:21 05:12:33` and `+02:00` → `2024-06-21T05:12:33+02:00`. */
function isoTime(time: unknown, offset: unknown): string | undefined {
  const parts = typeof time === 'string' && /^(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)$/.exec(time);
  if (!parts) return undefined;
  const [, year, month, day, clock] = parts;
  const iso = `${year}-${month}-${day}T${clock}`;
  // Cameras without a clock write zeros.
  if (Number.isNaN(Date.parse(`${iso}Z`))) return undefined;
  return typeof offset === 'string' && /^[+-]\d\d:\d\d$/.test(offset) ? iso + offset : iso;
}

function position(values: Readonly<Record<string, unknown>>): Exif['gps'] {
  const { latitude, longitude, GPSAltitude: altitude, GPSAltitudeRef: reference } = values;
  if (!isWithin(latitude, 90) || !isWithin(longitude, 180)) return undefined;
  // A byte, which the parser gives as it is: 1 is below the sea.
  const isBelow = reference instanceof Uint8Array ? reference[0] === 1 : reference === 1;
  return {
    latitude,
    longitude,
    ...(isWithin(altitude, 100_000) && { altitudeMetres: isBelow ? -altitude : altitude }),
  };
}

function isWithin(value: unknown, limit: number): value is number {
  return typeof value === 'number' && Math.abs(value) <= limit;
}
