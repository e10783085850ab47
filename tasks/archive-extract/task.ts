import { defineTask, fileRef, z } from '#shared/tasks/define-task.ts';

/** No braces, brackets or backslashes: they mean something in other tools, and would quietly match nothing here. */
const pattern = z
  .string()
  .min(1)
  .max(255)
  .regex(/^[^\\{}[\]!]+$/, 'Only *, ? and ** have a meaning; give a list instead of {a,b}.');

const patterns = z.union([pattern, z.array(pattern).max(20)]);

export const task = defineTask({
  name: 'archive.extract',
  title: 'Unpack an archive',
  description:
    'Takes the files out of an archive (ZIP, TAR, TAR.GZ) or a gzipped file, each as a file of its own, in the order of the ' +
    'archive. Archives inside are not unpacked. Nothing that an archive says of itself is believed: sizes and checksums are ' +
    'counted while unpacking, links and devices are skipped, and so are paths that lead out of it. An archive of more than ' +
    '10,000 entries, a damaged one and one with a password fail at once.',
  queue: 'files',
  input: z.strictObject({
    file: fileRef().describe('The archive. What it is is decided by its bytes, whatever it is called.'),
    include: patterns
      .optional()
      .describe(
        'Take only what one of these patterns matches, for example `*.jpg` (in any folder) or `photos/**`. `*` and `?` stand ' +
          'for characters of a name, `**` for any folders; upper and lower case are the same. Default: everything.',
      ),
    exclude: patterns
      .default(['__MACOSX/**', '._*', '.DS_Store', 'Thumbs.db', 'desktop.ini'])
      .describe(
        'Leave these out. Default: what macOS and Windows add without being asked (`__MACOSX/**`, `._*`, `.DS_Store`, `Thumbs.db`, `desktop.ini`); `[]` for nothing.',
      ),
    filesMax: z
      .int()
      .min(1)
      .max(10_000)
      .optional()
      .describe('Fail instead of taking more files. Default: as many as a job may give.'),
    bytesMax: z
      .int()
      .min(1)
      .max(100 * 1024 ** 3)
      .default(1024 ** 3)
      .describe('Fail when the files have more bytes than this together, unpacked.'),
    ratioMax: z
      .int()
      .min(1)
      .max(2_000)
      .default(100)
      .describe(
        'Fail when more than this many times the size of the archive comes out of it, as it does of a bomb. 16 MiB may always come out.',
      ),
  }),
  output: z.object({
    format: z.enum(['zip', 'tar', 'tar.gz', 'gzip']),
    files: z
      .array(
        z.object({
          file: fileRef(),
          name: z.string().describe('Of the stored file: the last part of the path.'),
          path: z
            .string()
            .describe('In the archive, with `/` between folders. Two entries may have the same one.'),
          sizeBytes: z.int(),
          mediaType: z.string().describe('From the bytes; `application/octet-stream` when they say nothing.'),
        }),
      )
      .describe('In the order of the archive.'),
    skipped: z
      .array(
        z.object({
          path: z.string().describe('As the archive has it: data, never a path to write to.'),
          reason: z
            .enum(['unsafe-path', 'path-too-long', 'link', 'device', 'unsupported'])
            .describe(
              '`unsafe-path`: absolute, with `..` or control characters. `unsupported`: sparse files and other kinds of entry.',
            ),
        }),
      )
      .describe('Entries that were wanted and not taken; the first 100.'),
    skippedCount: z.int().describe('All of them.'),
    leftOutCount: z.int().describe('Entries that `include` and `exclude` left out.'),
  }),
  example: { file: '0199d7a3-1f5c-7cc0-8000-000000000000', include: ['*.jpg', '*.png'] },
});

export type ExtractInput = z.output<typeof task.input>;
export type ExtractResult = z.output<typeof task.output>;
