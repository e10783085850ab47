import { open } from 'node:fs/promises';

export type FileFormat = 'csv' | 'json' | 'parquet';

/**
 * What a file is, from its bytes; the name only decides between text formats that look alike. NDJSON counts as
 * JSON here: DuckDB tells the two apart.
 * @returns undefined when the file is empty or holds only white space at its beginning and end.
 */
export async function findFileFormat(path: string, name: string): Promise<FileFormat | undefined> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4096), 0, 4096, 0);
    const head = buffer.subarray(0, bytesRead);
    if (head.subarray(0, 4).toString('latin1') === 'PAR1') return 'parquet';
    // UTF-16 is told by its first characters just as well once the zero bytes and the mark are gone.
    const text = head
      .toString('latin1')
      .replace(/^(\xEF\xBB\xBF|\xFF\xFE|\xFE\xFF)/, '')
      .replaceAll('\0', '')
      .trimStart();
    if (text === '' && bytesRead < buffer.length) return undefined;
    if (/\.(csv|tsv|tab|txt)$/i.test(name)) return 'csv';
    return /^[{[]/.test(text) ? 'json' : 'csv';
  } finally {
    await file.close();
  }
}
