/**
 * sharp (libvips) with the settings that hold for strangers' bytes. They are global to the process, and a task host
 * runs one task after the other, so every task that decodes images takes sharp from here.
 */
import sharp from 'sharp';

/**
 * Most pixels of one image or one frame. Decoding this many took at most 0.95 GB (AVIF; a progressive JPEG 0.44 GB,
 * others less), well below WINDLASS_HOST_MEMORY_MAX; it covers the 48 megapixels of telephones.
 */
export const imagePixelsMax = 50_000_000;

// One job at a time per process, and many processes: a cache never hits, and threads only take from each other.
sharp.cache(false);
sharp.concurrency(1);

// An allow-list of decoders: everything else in libvips (SVG, PDF, TIFF, ImageMagick …) is never reached, whatever
// the bytes look like.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: [
    'VipsForeignLoadJpeg',
    'VipsForeignLoadPng',
    'VipsForeignLoadWebp',
    'VipsForeignLoadNsgif',
    'VipsForeignLoadHeif',
  ],
});

export { sharp };
