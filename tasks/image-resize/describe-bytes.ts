import { open } from 'node:fs/promises';
import { fileTypeFromBuffer } from 'file-type';

/** What a file seems to be, for a message to the one who sent it: "a PDF (application/pdf)", "text", "an SVG drawing". */
export async function describeBytes(path: string): Promise<string> {
  const head = await readHead(path);
  const type = await fileTypeFromBuffer(head);
  if (type !== undefined) return `${type.ext.toUpperCase()} data (${type.mime})`;
  const text = head.toString('utf8');
  if (/<svg[\s>]/i.test(text)) return 'an SVG drawing';
  if (!text.includes('\0') && !text.slice(0, -4).includes('\ufffd')) return 'text';
  return 'data of an unknown type';
}

/** As much as the detection needs: bounded, however large the file is. */
const headBytes = 4_100;

async function readHead(path: string): Promise<Buffer> {
  const handle = await open(path);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(headBytes), 0, headBytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}
