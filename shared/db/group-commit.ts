/**
 * Group commit: concurrent single-row writes become one multi-row statement.
 *
 * There is no timer. While a flush is in flight, what arrives gathers, and goes with the next one: an idle system
 * pays no delay, a busy one shares each round trip and each fsync among all that waited for it.
 *
 * Where several flushes may be in flight, another one starts when as many items wait as one that is on its way holds: groups
 * stay large. And it starts at once, in the middle of a turn, when its share of the items that were here together of late is
 * full. Clients that were answered together ask again together: in one group for all of them, this process would wait
 * for the database and the database for this process. In two, one is worked on here while the other one is there.
 *
 * How a flush may fail, and what each of its items is told:
 * - a data error (SQLSTATE 21 to 23): one bad row must fail alone, so the group is halved until it stands by itself;
 * - too large for one string or one statement (54): halved as well;
 * - a deadlock or the like (40): rolled back whole, tried again up to three times;
 * - a lost connection: nobody knows whether it was committed, so each item is asked for by `recover`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isConnectionLost, isDataError, isTransactionRetryable, sqlState } from './pool.ts';
import { AppError } from '../errors.ts';

export interface GroupCommit<Item, Result> {
  /** Resolves when the item's row is committed. @throws AppError `unavailable` when `pendingMax` items wait already. */
  add(item: Item): Promise<Result>;
  /** Resolves when nothing is pending or in flight. */
  idle(): Promise<void>;
}

interface Pending<Item, Result> {
  readonly item: Item;
  readonly resolve: (result: Result) => void;
  readonly reject: (err: unknown) => void;
}

const retriesMax = 3;
/** A smaller share is not worth a statement of its own before the turn of the event loop is over. */
const promptShareMin = 8;
const peakFade = 0.95;

export function createGroupCommit<Item, Result>(options: {
  /** One statement for all items; answers in the order of the items. */
  flush: (items: readonly Item[]) => Promise<readonly Result[]>;
  /** After a lost connection: what became of this item? Rejects when that cannot be told. */
  recover: (item: Item, err: unknown) => Promise<Result>;
  /** Most flushes at once. Default 1. */
  flightsMax?: number;
  /** Most items in one flush. Default 500. */
  itemsMax?: number;
  /** Most items that may wait. Default 10,000. */
  pendingMax?: number;
}): GroupCommit<Item, Result> {
  const { flush, recover, flightsMax = 1, itemsMax = 500, pendingMax = 10_000 } = options;
  let pending: Pending<Item, Result>[] = [];
  let flights = 0;
  let itemsInFlight = 0;
  /** The most items that were here at once of late, waiting or in flight; each flush lets it fade. */
  let peak = 0;
  let isScheduled = false;
  let idleListeners: (() => void)[] = [];

  function isDue(): boolean {
    if (pending.length === 0) return false;
    if (flights === 0) return true;
    return flights < flightsMax && (pending.length >= itemsInFlight / flights || isShareFull());
  }

  function isShareFull(): boolean {
    const share = Math.min(itemsMax, Math.ceil(peak / flightsMax));
    return flightsMax > 1 && share >= promptShareMin && pending.length >= share;
  }

  function schedule(): void {
    // It need not wait for what else this turn brings.
    if (flights < flightsMax && isShareFull()) {
      start();
      return;
    }
    if (isScheduled || !isDue()) return;
    isScheduled = true;
    // One turn of the event loop lets everything that became ready in this tick share the flush.
    setImmediate(() => {
      isScheduled = false;
      start();
    });
  }

  function start(): void {
    while (isDue()) {
      const group = pending.slice(0, itemsMax);
      pending = pending.slice(itemsMax);
      flights += 1;
      itemsInFlight += group.length;
      void flushGroup(group).then(() => {
        peak = Math.max(pending.length + itemsInFlight, peak * peakFade);
        flights -= 1;
        itemsInFlight -= group.length;
        start();
      });
    }
    if (flights > 0 || pending.length > 0) return;
    for (const listener of idleListeners) listener();
    idleListeners = [];
  }

  /** Answers every item of the group; never rejects. */
  async function flushGroup(group: readonly Pending<Item, Result>[], retries = 0): Promise<void> {
    let results: readonly Result[];
    try {
      results = await flush(group.map((entry) => entry.item));
    } catch (err) {
      if (isTransactionRetryable(err) && retries < retriesMax) {
        await sleep(Math.random() * 20 * 2 ** retries);
        return flushGroup(group, retries + 1);
      }
      if ((isDataError(err) || isTooLarge(err)) && group.length > 1) {
        const middle = group.length >> 1;
        await flushGroup(group.slice(0, middle));
        return flushGroup(group.slice(middle));
      }
      if (isConnectionLost(err)) {
        await Promise.all(group.map((entry) => recover(entry.item, err).then(entry.resolve, entry.reject)));
        return;
      }
      for (const entry of group) entry.reject(err);
      return;
    }
    for (const [index, entry] of group.entries()) {
      // `flush` promises one result per item.
      entry.resolve(results[index] as Result);
    }
  }

  return {
    add(item) {
      if (pending.length >= pendingMax) {
        return Promise.reject(
          new AppError('unavailable', `More than ${pendingMax} writes are waiting for the database.`, {
            retryAfterSeconds: 1,
          }),
        );
      }
      return new Promise<Result>((resolve, reject) => {
        pending.push({ item, resolve, reject });
        schedule();
      });
    },
    idle() {
      if (flights === 0 && pending.length === 0) return Promise.resolve();
      return new Promise((resolve) => idleListeners.push(resolve));
    },
  };
}

/** 500 inputs of the size that an operator allows can be more than V8 or Postgres takes at once. */
function isTooLarge(err: unknown): boolean {
  return err instanceof RangeError || sqlState(err)?.startsWith('54') === true;
}
