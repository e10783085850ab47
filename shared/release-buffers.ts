/**
 * V8 does not see how large the buffers of a stream are until 32 MiB of them have gathered, and then marks the whole heap (20 MiB
 * in the api) to find that nearly all are garbage: for an upload of 1 GiB 28 times, which took half of the processor time. They
 * are all young, and to free the young ones takes a millisecond or less: so whoever lets many bytes pass says so here.
 */
import { Transform } from 'node:stream';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** V8 counts what was freed when it collects the next time. With 16 MiB it marked the heap all the same now and then. */
const collectEveryBytes = 4 * 1024 * 1024;

const collect = exposeCollector();
let passedBytes = 0;

/** So many bytes were read into buffers that nobody needs for long. */
export function notePassed(bytes: number): void {
  passedBytes += bytes;
  if (passedBytes < collectEveryBytes) return;
  passedBytes = 0;
  collect({ type: 'minor' });
}

/** Lets a stream of large buffers through, and notes it. */
export function releaseBuffers(): Transform {
  return new Transform({
    // Holds none itself.
    highWaterMark: 1,
    transform(chunk: Buffer, _encoding, done) {
      notePassed(chunk.length);
      done(null, chunk);
    },
  });
}

/**
 * For this module alone, where the command line has not made a global of it. The flag is the whole process': in a thread that loads this
 * at the same moment it may be off again already. Then buffers are freed later, as they were.
 */
function exposeCollector(): (options: { type: 'minor' }) => unknown {
  if (globalThis.gc !== undefined) return globalThis.gc;
  setFlagsFromString('--expose-gc');
  const gc: unknown = runInNewContext(`typeof gc === 'function' ? gc : () => {}`);
  setFlagsFromString('--no-expose-gc');
  return gc as ReturnType<typeof exposeCollector>;
}
