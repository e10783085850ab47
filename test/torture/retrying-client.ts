/**
 * A client that behaves as a sane one does: it has a time limit for every request, tries again with a growing and random
 * pause what it may repeat, turns to another api, and gives up only when the run is over.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';
import type { Random } from './random.ts';

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
}

export type Outcome = { readonly answer: Answer } | { readonly unanswered: string };

export interface RetryingClient {
  /**
   * @param options.isRepeatable GET and whatever carries an Idempotency-Key: tried until it is answered.
   * @returns the first answer that is neither "later" nor a failure of the way; for what must not be repeated, or when the
   *   run ends, why there is none.
   */
  request(
    method: string,
    path: string,
    options: {
      key: string;
      isRepeatable: boolean;
      headers?: Readonly<Record<string, string>>;
      body?: () => string | FormData | ReadableStream<Uint8Array>;
      /** Which api is asked first. */
      first?: number;
    },
  ): Promise<Outcome>;
}

const timeoutMs = 15_000;
const pauseMsMax = 2_000;
/** "Not now", and what a proxy in front says when it has nobody to ask. */
const laterStatuses = new Set([429, 502, 503, 504]);

export function createRetryingClient(options: {
  urls: readonly string[];
  random: Random;
  /** Aborted when there is no point in trying any longer. */
  giveUp: AbortSignal;
  onUnexpected: (what: string) => void;
}): RetryingClient {
  const { urls, random, giveUp, onUnexpected } = options;
  return {
    async request(
      method,
      path,
      { key, isRepeatable, headers, body, first = random.int(0, urls.length - 1) },
    ) {
      let reason = '';
      for (let tries = 0; !giveUp.aborted; tries += 1) {
        const url = urls[(first + tries) % urls.length] ?? '';
        try {
          const response = await fetch(url + path, {
            method,
            headers: { authorization: `Bearer ${key}`, ...headers },
            ...(body !== undefined && { body: body(), duplex: 'half' as const }),
            signal: AbortSignal.timeout(timeoutMs),
          });
          const answer = {
            status: response.status,
            headers: response.headers,
            body: await response.text(),
          };
          if (answer.status === 500)
            onUnexpected(`I14: ${method} ${path} was answered with 500: ${answer.body}`);
          else if (!laterStatuses.has(answer.status)) return { answer };
          reason = `${answer.status} ${answer.body.slice(0, 300)}`;
        } catch (err) {
          reason = err instanceof Error ? `${err.message} (${inspect(err.cause ?? err.name)})` : String(err);
        }
        if (!isRepeatable) return { unanswered: reason };
        await sleep(random.next() * Math.min(pauseMsMax, 100 * 2 ** tries));
      }
      return { unanswered: `the run is over; last: ${reason}` };
    },
  };
}
