import { defineTask, fileRef, z } from '#shared/tasks/define-task.ts';

const image = z.object({
  width: z.int().describe('Upright, of one frame.'),
  height: z.int(),
  orientation: z.int().min(1).max(8).describe('EXIF orientation; 1 is upright.'),
  frames: z.int(),
  hasAlpha: z.boolean(),
  colourSpace: z.string(),
  hasProfile: z.boolean().describe('Whether an ICC colour profile is embedded.'),
  isProgressive: z.boolean(),
  exif: z
    .object({
      camera: z.string().optional(),
      lens: z.string().optional(),
      takenAt: z.string().optional().describe('ISO 8601; without an offset when the camera did not say one.'),
      gps: z
        .object({ latitude: z.number(), longitude: z.number(), altitudeMetres: z.number().optional() })
        .optional()
        .describe('Where the picture was taken.'),
      tags: z.record(
        z.string(),
        z.union([z.string(), z.number(), z.boolean(), z.array(z.union([z.string(), z.number()]))]),
      ),
    })
    .optional(),
});

const media = z.object({
  container: z.string().optional(),
  durationSeconds: z.number().optional(),
  bitsPerSecond: z.int().optional(),
  audio: z
    .object({
      codec: z.string().optional(),
      sampleRateHz: z.number().optional(),
      channels: z.int().optional(),
    })
    .optional(),
  video: z
    .object({ codec: z.string().optional(), width: z.int().optional(), height: z.int().optional() })
    .optional(),
  title: z.string().optional(),
  artist: z.string().optional(),
  album: z.string().optional(),
});

const text = z.object({
  charset: z
    .enum(['us-ascii', 'utf-8', 'utf-16le', 'utf-16be', 'windows-1252', 'unknown-8bit'])
    .describe('Certain for the first four; `windows-1252` is a guess.'),
  hasByteOrderMark: z.boolean(),
  lineEnding: z.enum(['lf', 'crlf', 'cr', 'mixed', 'none']),
  table: z.object({ delimiter: z.string(), columns: z.int() }).optional().describe('Of CSV and TSV.'),
});

const pdf = z.object({
  version: z.string(),
  pages: z.int().optional().describe('Left out when it is inside a compressed object.'),
  isEncrypted: z.boolean(),
});

const archive = z.object({
  entries: z.int().describe('As its directory says.'),
  uncompressedBytes: z.int().describe('Of the entries that were looked at, as they say of themselves.'),
  isEncrypted: z.boolean(),
  names: z.array(z.string()).describe('The first 100 names, as they are: data, never paths.'),
});

export const task = defineTask({
  name: 'file.inspect',
  title: 'Inspect a file',
  description:
    'Says what a file is by its bytes, whatever it is called: media type, checksums, and for images, sound, film, text, ' +
    'PDF and ZIP what can be learnt without decoding them. What cannot be read ends as a warning, not as a failure.',
  queue: 'files',
  input: z.strictObject({ file: fileRef().describe('Any file.') }),
  output: z.object({
    name: z.string(),
    sizeBytes: z.int(),
    sha256: z.string(),
    md5: z.string(),
    crc32: z.string(),
    mediaType: z.string().describe('From the bytes; `application/octet-stream` when they say nothing.'),
    extension: z.string().optional().describe('The usual one for the media type, without a dot.'),
    declaredType: z.string().describe('What the upload said.'),
    isDeclaredTypeWrong: z
      .boolean()
      .describe('The bytes contradict the declared type. `application/octet-stream` declares nothing.'),
    image: image.optional(),
    media: media.optional(),
    text: text.optional(),
    pdf: pdf.optional(),
    archive: archive.optional(),
    warnings: z.array(z.string()),
  }),
  example: { file: '0199d7a3-1f5c-7cc0-8000-000000000000' },
});

export type Inspection = z.output<typeof task.output>;
