/** Says how large a result will be before a single pixel is decoded, so that a result that is too large costs nothing. */
export interface Size {
  readonly width: number;
  readonly height: number;
}

export interface SizeRequest {
  readonly width?: number | undefined;
  readonly height?: number | undefined;
  readonly fit: 'cover' | 'contain' | 'fill' | 'inside' | 'outside';
  readonly withoutEnlargement: boolean;
}

/** The size that sharp will give an upright `source` for `effectiveFit`, give or take a pixel of rounding. */
export function targetSize(source: Size, request: SizeRequest): Size {
  const { width, height } = request;
  if (width === undefined && height === undefined) return source;
  const wide = width === undefined ? Number.POSITIVE_INFINITY : width / source.width;
  const high = height === undefined ? Number.POSITIVE_INFINITY : height / source.height;
  const cap = request.withoutEnlargement ? 1 : Number.POSITIVE_INFINITY;
  switch (effectiveFit(request)) {
    case 'inside':
      return scale(source, Math.min(wide, high, cap), Math.min(wide, high, cap));
    case 'outside':
      return scale(source, Math.min(Math.max(wide, high), cap), Math.min(Math.max(wide, high), cap));
    case 'contain':
      return scale(source, wide, high);
    case 'cover':
    case 'fill':
      return scale(source, Math.min(wide, cap), Math.min(high, cap));
  }
}

/** With one side given the other follows, whatever the fit; sharp would add borders or distort for some. */
export function effectiveFit({ width, height, fit }: SizeRequest): SizeRequest['fit'] {
  return width === undefined || height === undefined ? 'inside' : fit;
}

function scale(source: Size, wide: number, high: number): Size {
  return {
    width: Math.max(1, Math.round(source.width * wide)),
    height: Math.max(1, Math.round(source.height * high)),
  };
}
