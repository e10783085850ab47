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

/** The size that sharp will give an upright `source`, give or take a pixel of rounding. */
export function targetSize(source: Size, request: SizeRequest): Size {
  const wide = request.width === undefined ? undefined : request.width / source.width;
  const high = request.height === undefined ? undefined : request.height / source.height;
  const cap = request.withoutEnlargement ? 1 : Number.POSITIVE_INFINITY;

  if (wide === undefined && high === undefined) return source;
  if (request.fit === 'fill') return scale(source, Math.min(wide ?? 1, cap), Math.min(high ?? 1, cap));
  if (wide === undefined || high === undefined) {
    const factor = Math.min(wide ?? high ?? 1, cap);
    return scale(source, factor, factor);
  }
  if (request.fit === 'contain') return { width: request.width ?? 1, height: request.height ?? 1 };
  if (request.fit === 'cover') return scale(source, Math.min(wide, cap), Math.min(high, cap));
  const factor = Math.min(request.fit === 'inside' ? Math.min(wide, high) : Math.max(wide, high), cap);
  return scale(source, factor, factor);
}

function scale(source: Size, wide: number, high: number): Size {
  return {
    width: Math.max(1, Math.round(source.width * wide)),
    height: Math.max(1, Math.round(source.height * high)),
  };
}
