import type { IncomingMessage } from 'node:http';
import type { Transform } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import { AppError } from '#shared/errors.ts';
import { checkMs, tooSilent, tooSlow, windowMs, type PaceLimits } from './upload-pace.ts';

export interface BodyLimits extends PaceLimits {
  /** Of what comes, and of what it holds unpacked. */
  readonly bytesMax: number;
  /** What the answers call it. */
  readonly bytesName: string;
}

/**
 * A small body, whole; packed ones are unpacked. Whoever stops in the middle of a body would hold a connection for ever: silence
 * and slowness end it. Not express.json(), which took a sixth of the time of a call.
 * @throws AppError `content-too-large`, `request-timeout`, `upload-incomplete`, `unsupported-media-type`, `bad-request`
 *   (it cannot be unpacked). The rest of the body is left unread then.
 */
export function readBody(req: IncomingMessage, limits: BodyLimits): Promise<Buffer> | Buffer {
  return takeArrived(req, limits) ?? receiveBody(req, limits);
}

/** Most bodies came with their headers, before anybody asked for them: nothing has to be waited for, or unpacked. */
function takeArrived(req: IncomingMessage, limits: BodyLimits): Buffer | undefined {
  const { 'content-length': length, 'content-encoding': encoding } = req.headers;
  // Not `req.complete`: whoever waits for anything goes on before the parser has said so.
  const isBuffered = length !== undefined && req.readableLength === Number(length);
  if (!isBuffered || encoding !== undefined) return undefined;
  if (req.readableLength > limits.bytesMax) throw tooLarge(limits);
  const body = req.read() as Buffer | null;
  req.resume();
  return body ?? undefined;
}

function receiveBody(req: IncomingMessage, limits: BodyLimits): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const decoder = createDecoder(req.headers['content-encoding']);
    const source = decoder === undefined ? req : req.pipe(decoder);
    const pace = createPace(limits, fail);
    const chunks: Buffer[] = [];
    let size = 0;
    let hasEnded = false;
    let hasArrived = false;

    function hear(chunk: Buffer): void {
      if (pace.count(chunk) > limits.bytesMax) fail(tooLarge(limits));
    }
    function take(chunk: Buffer): void {
      size += chunk.length;
      if (size > limits.bytesMax) fail(tooLarge(limits));
      else chunks.push(chunk);
    }
    /** What is packed may end before the body does; the rest has to be read, or the connection would be of no use any more. */
    function end(): void {
      hasEnded = true;
      if (decoder === undefined || hasArrived) finish();
      else req.unpipe(decoder).resume();
    }
    function finish(): void {
      release();
      resolve(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks));
    }
    /** What comes after is our time, and the request closes by itself. */
    function arrive(): void {
      hasArrived = true;
      stopHearing();
      if (hasEnded) finish();
    }
    function stopHearing(): void {
      pace.stop();
      req.off('data', hear).off('error', lose).off('close', lose);
    }
    function lose(): void {
      fail(new AppError('upload-incomplete', 'The body ended before all of it had arrived.'));
    }
    function fail(err: AppError): void {
      release();
      reject(err);
    }
    function release(): void {
      stopHearing();
      source.off('data', take).off('end', end);
      if (decoder === undefined) return;
      req.off('end', arrive);
      req.unpipe(decoder);
      decoder.destroy();
    }

    if (Number(req.headers['content-length']) > limits.bytesMax) {
      fail(tooLarge(limits));
      return;
    }
    if (req.destroyed) {
      lose();
      return;
    }
    req.on('data', hear).on('error', lose).on('close', lose);
    source.on('data', take).on('end', end);
    if (decoder === undefined) return;
    req.on('end', arrive);
    decoder.on('error', (err) =>
      fail(
        new AppError(
          'bad-request',
          `The body cannot be unpacked as its Content-Encoding says: ${err.message}.`,
        ),
      ),
    );
  });
}

function createDecoder(encoding = 'identity'): Transform | undefined {
  switch (encoding.toLowerCase()) {
    case 'identity':
      return undefined;
    case 'gzip':
    case 'x-gzip':
      return createGunzip();
    case 'deflate':
      return createInflate();
    case 'br':
      return createBrotliDecompress();
    case 'zstd':
      return createZstdDecompress();
    default:
      throw new AppError(
        'unsupported-media-type',
        `The Content-Encoding "${encoding}" is not known here. Send no compression, or gzip, deflate, br or zstd.`,
      );
  }
}

function createPace({ idleMs, rateMin }: PaceLimits, onSlow: (err: AppError) => void) {
  const startedMs = performance.now();
  let heardMs = startedMs;
  let bytes = 0;
  const timer = setInterval(() => {
    const now = performance.now();
    const tookMs = now - startedMs;
    if (now - heardMs >= idleMs) onSlow(tooSilent(idleMs));
    else if (tookMs >= windowMs && bytes / (tookMs / 1_000) < rateMin) onSlow(tooSlow(rateMin));
  }, checkMs);
  return {
    /** @returns the bytes that have come. */
    count(chunk: Buffer): number {
      bytes += chunk.length;
      heardMs = performance.now();
      return bytes;
    },
    stop: () => clearInterval(timer),
  };
}

function tooLarge({ bytesMax, bytesName }: BodyLimits): AppError {
  return new AppError(
    'content-too-large',
    `The JSON body is larger than ${bytesMax} bytes (${bytesName}). Put large data into a file.`,
  );
}
