import { defineTask, fileRef, z } from '#shared/tasks/define-task.ts';

/** Formats that can be written. HEIC can only be read. */
export const outputFormats = ['jpeg', 'png', 'webp', 'avif', 'gif'] as const;

const gravities = [
  'center',
  'north',
  'northeast',
  'east',
  'southeast',
  'south',
  'southwest',
  'west',
  'northwest',
] as const;

const side = z.int().min(1).max(16_384);

export const task = defineTask({
  name: 'image.resize',
  title: 'Resize an image',
  description:
    'Makes an image smaller or larger, turns it upright, converts it (JPEG, PNG, WebP, AVIF, GIF; reads HEIC too) and ' +
    'removes what it tells about where and by whom it was taken. Animations stay animated in GIF and WebP. ' +
    'Say at least one of width, height, format and quality.',
  queue: 'image',
  input: z
    .strictObject({
      file: fileRef().describe('The image: at most 50 megapixels, and 500 frames if it is animated.'),
      width: side
        .optional()
        .describe('Width of the result in pixels; with only one side given, the other follows.'),
      height: side.optional().describe('Height of the result in pixels.'),
      fit: z
        .enum(['cover', 'contain', 'fill', 'inside', 'outside'])
        .default('cover')
        .describe(
          'When both sides are given: `cover` cuts what is too much, `contain` adds `background`, `fill` distorts, ' +
            '`inside` keeps within both, `outside` covers both without cutting.',
        ),
      position: z
        .enum([...gravities, 'entropy', 'attention'])
        .default('center')
        .describe(
          'What `cover` keeps, and where `contain` puts the image. `entropy` keeps the busiest part, `attention` looks ' +
            'for faces and bright colours; both need `cover` and an image that is not animated.',
        ),
      background: z
        .union([z.literal('transparent'), z.string().regex(/^#[0-9a-f]{6}([0-9a-f]{2})?$/i)])
        .default('#ffffff')
        .describe(
          'Colour behind `contain`, and behind transparent parts in JPEG: #rrggbb, #rrggbbaa or `transparent`.',
        ),
      format: z
        .enum(['keep', ...outputFormats])
        .default('keep')
        .describe('Format of the result. `keep` turns HEIC into JPEG.'),
      quality: z
        .int()
        .min(1)
        .max(100)
        .optional()
        .describe(
          'Of JPEG and WebP (default 80) and AVIF (default 50). PNG and GIF have none and ignore it.',
        ),
      effort: z
        .enum(['fast', 'balanced', 'small'])
        .default('balanced')
        .describe('How much time to spend on a small file.'),
      withoutEnlargement: z
        .boolean()
        .default(false)
        .describe('Leave an image that is smaller than asked as it is.'),
      keepMetadata: z
        .boolean()
        .default(false)
        .describe('Keep EXIF (with its GPS position), XMP, IPTC and the colour profile.'),
    })
    .refine(
      (input) =>
        input.width !== undefined ||
        input.height !== undefined ||
        input.format !== 'keep' ||
        input.quality !== undefined,
      'Say what to do: at least one of width, height, format and quality.',
    )
    .refine(
      (input) => input.fit === 'cover' || (input.position !== 'entropy' && input.position !== 'attention'),
      {
        path: ['position'],
        message: '`entropy` and `attention` choose what to cut, so they need `fit: "cover"`.',
      },
    ),
  output: z.object({
    file: fileRef(),
    name: z.string(),
    format: z.enum(outputFormats),
    mediaType: z.string(),
    width: z.int(),
    height: z.int().describe('Of one frame.'),
    frames: z.int().describe('1 unless the result is animated.'),
    sizeBytes: z.int(),
    source: z
      .object({
        format: z.enum([...outputFormats, 'heic']),
        width: z.int(),
        height: z.int(),
        frames: z.int(),
      })
      .describe('The image that came in, upright.'),
  }),
  example: { file: '0199d7a3-1f5c-7cc0-8000-000000000000', width: 320, format: 'webp' },
});
