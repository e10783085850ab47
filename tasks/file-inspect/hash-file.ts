import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { crc32 } from 'node:zlib';

const chunkBytes = 1024 * 1024;

/**
 * MD5 and CRC-32 in one pass, for comparing with what others publish; neither proves anything.
 * @param onProgress is given the bytes read so far.
 */
export async function hashFile(
  path: string,
  options: { signal: AbortSignal; onProgress: (bytes: number) => void },
): Promise<{ md5: string; crc32: string }> {
  const md5 = createHash('md5');
  let crc = 0;
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: chunkBytes, signal: options.signal })) {
    md5.update(chunk);
    crc = crc32(chunk, crc);
    bytes += chunk.length;
    options.onProgress(bytes);
  }
  return { md5: md5.digest('hex'), crc32: crc.toString(16).padStart(8, '0') };
}
