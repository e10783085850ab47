import { sharp } from '#shared/tasks/safe-sharp.ts';
import { readExif } from './read-exif.ts';
import type { Inspection } from './task.ts';

/** Media types whose headers safe-sharp can read. */
export const imageTypes = new Set([
  'image/jpeg',
  'image/png',
  'image/apng',
  'image/webp',
  'image/gif',
  'image/avif',
  'image/heic',
  'image/heif',
  'image/heic-sequence',
  'image/heif-sequence',
]);

/** What the header says; no pixel is decoded, so an image of any size costs the same. */
export async function inspectImage(path: string, warnings: string[]): Promise<Inspection['image']> {
  const metadata = await sharp(path, { limitInputPixels: false }).metadata();
  const exif = metadata.exif && (await readExif(metadata.exif, warnings));
  return {
    width: metadata.autoOrient.width,
    height: metadata.autoOrient.height,
    orientation: metadata.orientation ?? 1,
    frames: metadata.pages ?? 1,
    hasAlpha: metadata.hasAlpha,
    colourSpace: metadata.space,
    hasProfile: metadata.hasProfile,
    isProgressive: metadata.isProgressive,
    ...(exif && { exif }),
  };
}
