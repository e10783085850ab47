import { inspect } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Polls `probe` every 20 ms until it returns something else than undefined, and returns that. A test waits for what
 * it observes, never for a time; the deadline (default 180 s) is only there to fail instead of hanging.
 * @throws Error on the deadline, saying what was awaited, and what `seen` last returned or `probe` last failed with.
 */
export async function waitFor<Value>(
  probe: () => Value | undefined | Promise<Value | undefined>,
  options: { what: string; deadlineMs?: number; seen?: () => unknown },
): Promise<Value> {
  const deadlineMs = options.deadlineMs ?? 180_000;
  const deadline = performance.now() + deadlineMs;
  let lastError: unknown;
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined) return value;
      lastError = undefined;
    } catch (err) {
      // What is being waited for may not answer yet; if it never does, the error says so.
      lastError = err;
    }
    if (performance.now() > deadline) {
      const seen = options.seen === undefined ? '' : ` Last seen: ${inspect(options.seen(), { depth: 6 })}.`;
      throw new Error(`Waited ${deadlineMs} ms for ${options.what}.${seen}`, { cause: lastError });
    }
    await sleep(20);
  }
}
