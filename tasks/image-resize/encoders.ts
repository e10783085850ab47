/** The formats that can be written: what each is called, how large it can be, and how a pipeline is told to write it. */
import type { Sharp } from 'sharp';
import type { outputFormats } from './task.ts';

export interface EncodeOptions {
  readonly quality?: number | undefined;
  readonly effort: 'fast' | 'balanced' | 'small';
}

export interface Encoder {
  readonly extension: string;
  readonly mediaType: string;
  /** Longest side that the format, or its library, can hold. */
  readonly sideMax: number;
  readonly canAnimate: boolean;
  encode(image: Sharp, options: EncodeOptions): Sharp;
}

/**
 * `balanced` is what the libraries do by default. Measured on 12 megapixels with one thread: WebP 0.5, 1.2 and 2.6 s,
 * AVIF 1.7, 7.9 and 13 s; AVIF's slower settings took 46 s.
 */
export const encoders = {
  jpeg: {
    extension: 'jpg',
    mediaType: 'image/jpeg',
    sideMax: 65_500,
    canAnimate: false,
    encode: (image, { quality = 80, effort }) =>
      image.jpeg({ quality, optimiseCoding: effort !== 'fast', mozjpeg: effort === 'small' }),
  },
  png: {
    extension: 'png',
    mediaType: 'image/png',
    sideMax: 65_500,
    canAnimate: false,
    encode: (image, { effort }) =>
      image.png({
        compressionLevel: { fast: 2, balanced: 6, small: 9 }[effort],
        adaptiveFiltering: effort === 'small',
      }),
  },
  webp: {
    extension: 'webp',
    mediaType: 'image/webp',
    sideMax: 16_383,
    canAnimate: true,
    encode: (image, { quality = 80, effort }) =>
      image.webp({ quality, effort: { fast: 2, balanced: 4, small: 6 }[effort] }),
  },
  avif: {
    extension: 'avif',
    mediaType: 'image/avif',
    sideMax: 16_384,
    canAnimate: false,
    encode: (image, { quality = 50, effort }) =>
      image.avif({ quality, effort: { fast: 2, balanced: 4, small: 6 }[effort] }),
  },
  gif: {
    extension: 'gif',
    mediaType: 'image/gif',
    sideMax: 65_500,
    canAnimate: true,
    encode: (image, { effort }) => image.gif({ effort: { fast: 1, balanced: 7, small: 10 }[effort] }),
  },
} satisfies Record<(typeof outputFormats)[number], Encoder>;
