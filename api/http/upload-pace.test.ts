import { randomBytes } from 'node:crypto';
import { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { paceBody } from './upload-pace.ts';

const limits = { idleMs: 30_000, rateMin: 1_024 };

describe('the pace of a body', () => {
  // Only the clock and the timer are ours; streams go on as always.
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] }));
  afterEach(() => void vi.useRealTimers());

  test('29 s of silence are let through, 30 s are not', async () => {
    const { req, body } = setup();
    body.resume();
    req.push('a');
    await pass(29_000);
    req.push('b');
    await pass(29_000);
    expect(body.destroyed).toBe(false);
    await pass(1_000);
    expect(body.errored).toMatchObject({
      code: 'request-timeout',
      message: 'Nothing came for 30000 ms (WINDLASS_UPLOAD_IDLE_MS).',
    });
    expect(req.destroyed, 'the request can still be answered').toBe(false);
  });

  test('one byte a second is cut off after a minute', async () => {
    const { req, body } = setup();
    body.resume();
    for (let second = 0; second < 59; second += 1) {
      req.push('a');
      await pass(1_000);
    }
    expect(body.destroyed).toBe(false);
    await pass(1_000);
    expect(body.errored).toMatchObject({
      code: 'request-timeout',
      message: 'Less than 1024 bytes per second came in a minute (WINDLASS_UPLOAD_RATE_MIN).',
    });
  });

  test('an honest 50 kB/s upload may take hours', async () => {
    const { req, body } = setup();
    body.resume();
    for (let second = 0; second < 7_200; second += 1) {
      req.push(Buffer.alloc(50_000));
      await pass(1_000);
    }
    expect(body.destroyed).toBe(false);
  });

  test('an upload that slows down to a trickle is cut off within the next two minutes', async () => {
    const { req, body } = setup();
    body.resume();
    for (let second = 0; second < 90; second += 1) {
      req.push(Buffer.alloc(50_000));
      await pass(1_000);
    }
    for (let second = 0; second < 120 && !body.destroyed; second += 1) {
      req.push('a');
      await pass(1_000);
    }
    expect(body.errored).toMatchObject({ code: 'request-timeout' });
  });

  test('time in which our own reader is behind does not count against the client', async () => {
    const { req, body } = setup();
    req.push(randomBytes(2 * 1024 * 1024));
    await pass(600_000);
    expect(body.destroyed).toBe(false);
    body.resume();
    await pass(29_000);
    expect(body.destroyed).toBe(false);
    await pass(2_000);
    expect(body.errored).toMatchObject({ code: 'request-timeout' });
  });

  test('after the last byte the clock stands still: storing may take its time', async () => {
    const { req, body } = setup();
    const bytes = randomBytes(30_000);
    req.push(bytes);
    req.push(null);
    await pass(600_000);
    expect(vi.getTimerCount()).toBe(0);
    expect((await buffer(body)).equals(bytes)).toBe(true);
  });

  test('a stream that was given up leaves no timer', async () => {
    const { body } = setup();
    expect(vi.getTimerCount()).toBe(1);
    body.destroy();
    await setImmediate();
    expect(vi.getTimerCount()).toBe(0);
  });

  test('every chunk is shown once, before it is read', async () => {
    const seen: string[] = [];
    const { req, body } = setup((chunk) => void seen.push(chunk.toString()));
    req.push('a');
    req.push('b');
    req.push(null);
    expect((await buffer(body)).toString()).toBe(seen.join(''));
    expect(seen.join('')).toBe('ab');
  });
});

function setup(onChunk?: (chunk: Buffer) => void) {
  const req = new IncomingMessage(new Socket());
  return { req, body: paceBody(req, limits, onChunk) };
}

async function pass(ms: number): Promise<void> {
  for (let i = 0; i < 4; i += 1) await setImmediate();
  await vi.advanceTimersByTimeAsync(ms);
}
