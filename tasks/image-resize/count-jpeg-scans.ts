/**
 * How many scans a JPEG has. A progressive JPEG is sent in several scans, about ten in practice; each makes the
 * decoder walk over all of the image again. Thousands are possible, cost a few bytes each, and keep the decoder busy
 * for as long as the attacker likes: 480 kB took 24 s, and neither libvips nor its timeout stops it.
 *
 * Segments are skipped by their length, because embedded thumbnails have scans of their own.
 */
import { ByteReader } from './byte-reader.ts';

const marker = { startOfImage: 0xd8, endOfImage: 0xd9, startOfScan: 0xda } as const;

/** Counts up to `max + 1`; a file that breaks off is counted as far as it goes. */
export async function countJpegScans(path: string, max: number): Promise<number> {
  await using bytes = await ByteReader.open(path);
  let scans = 0;
  while (scans <= max) {
    const code = await nextMarker(bytes);
    if (code === undefined || code === marker.endOfImage) break;
    if (code === marker.startOfScan) scans += 1;
    if (code !== marker.startOfImage) {
      const length = ((await bytes.next()) ?? 0) * 256 + ((await bytes.next()) ?? 0);
      bytes.skip(Math.max(length - 2, 0));
    }
  }
  return scans;
}

/** The next marker with a segment of its own; walks over entropy-coded data with its stuffed zeros and restarts. */
async function nextMarker(bytes: ByteReader): Promise<number | undefined> {
  while (await bytes.skipTo(0xff)) {
    let code = await bytes.next();
    while (code === 0xff) code = await bytes.next();
    const isRestart = code !== undefined && code >= 0xd0 && code <= 0xd7;
    if (code !== 0 && !isRestart) return code;
  }
  return undefined;
}
