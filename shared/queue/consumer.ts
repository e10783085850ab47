/**
 * Takes deliveries of one queue from BullMQ. The lock that BullMQ holds meanwhile is no protection (the fence is);
 * it only decides how soon a delivery whose worker died before claiming is offered again. So a BullMQ job could end as soon as its
 * deliveries are claimed. But BullMQ fetches the next one in the call that ends this one: it stays open until we want another, which is
 * when there is a slot for it. What is fetched without one would wait here while another worker is idle. Only where runs end
 * quickly (`claimsAhead`) is it fetched a little earlier, when the line is nearly over (`keepAhead` of the slot gate).
 *
 * The watchdog: a worker can stop taking jobs without an error (half-open connections, bugs of reconnecting). If Redis
 * holds deliveries, we have a free slot and took nothing for 10 s, the BullMQ worker is rebuilt on new
 * connections; when two new ones have brought no delivery either, `onStuck` ends the process.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { WaitingError, Worker, type Job } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Delivery } from '../db/claim-jobs.ts';
import type { Logger } from '../log.ts';
import { unpackEntry } from './bundles.ts';
import type { Deliveries } from './deliveries.ts';
import { createSlotGate } from './slot-gate.ts';

/** The place of what is claimed among all that wait for a slot. */
export interface Turn {
  /** It has begun, in the place of one that has just ended: the slot that this leaves is its. May be called again. */
  begin(): void;
  /**
   * Whether it may be given to somebody who begins it without asking. Not while something waits that is not claimed yet, or for memory: it
   * would be passed over. And not while another one that has begun waits for its slot.
   */
  mayBeGiven(): boolean;
}

export interface Consumer {
  readonly queue: string;
  /** Slots that are taken: deliveries being worked on, or waiting for `admit`. */
  busy(): number;
  /** Nothing is being worked on, or given back. */
  isIdle(): boolean;
  /** Takes no further deliveries; one that arrives all the same goes back to Redis, for another worker. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Runs the watchdog once; called by a timer, and by tests. @returns true when the BullMQ worker was rebuilt. */
  watch(nowMs?: number): Promise<boolean>;
  close(): Promise<void>;
}

const lockDurationMs = 6_000;
const stalledIntervalMs = 3_000;
const stuckAfterMs = 10_000;
/** BullMQ jobs that are on their way at once: enough to share the claims of many, few enough to leave some for others. */
const fetchesMax = 16;
/** What cannot begin in this time goes back; what is claimed, in this time after its claim. */
const holdMsDefault = 250;
/** While a run ended so short a time ago, in ms, the next one ends soon. */
const movingMs = 100;
const giveBackRetryMs = 500;

export function createConsumer(options: {
  queue: string;
  slots: number;
  prefix: string;
  connect: () => Redis;
  deliveries: Pick<Deliveries, 'giveBack' | 'countWaiting'>;
  /** Resolves to true when there is room for one more, to false when it has been given up. */
  admit?: (isGivenUp: () => boolean) => Promise<boolean>;
  /** Somebody waits for `admit`, of any queue. */
  isCrowded?: () => boolean;
  /**
   * Resolves when the slot is free again. `onClaimed` is called when the delivery has no meaning any more. What is claimed may
   * begin when `slot` is true; it goes back, without having begun, when that is false. A claim that fails must reject at once, without
   * waiting for `slot`: until then repair takes its bundle for delivered.
   */
  work: (
    delivery: Delivery,
    onClaimed: () => void,
    slot: true | Promise<boolean>,
    turn: Turn,
  ) => Promise<void>;
  /**
   * A bundle is claimed whole when there is a slot for its first delivery, or will be in a moment; what has none stands in line for the
   * next ones. The next bundle is fetched when the line is nearly over. Their jobs seem to run before they do, so it is nothing for those
   * that must not run again after a crash. Default false.
   */
  claimsAhead?: boolean;
  /** How long a delivery may wait for a slot, for tests. Default 250 ms. */
  holdMs?: number;
  onStuck: () => void;
  log: Logger;
}): Consumer {
  const { queue, slots, prefix, deliveries, work, log } = options;
  const { claimsAhead = false, holdMs = holdMsDefault } = options;
  const fetches = Math.min(slots, fetchesMax);
  const gate = createSlotGate(slots, fetches);
  /** Deliveries that wait before they are claimed. */
  let unclaimed = 0;
  /** Entries whose deliveries are not all claimed or given back. */
  let handling = 0;
  let lastTakenMs = performance.now();
  let lastEndedMs = Number.NEGATIVE_INFINITY;
  let rebuilds = 0;
  let isPaused = false;
  let current = build();

  function build() {
    const connection = options.connect();
    const worker = new Worker(
      queue,
      async (job, token) => {
        lastTakenMs = performance.now();
        rebuilds = 0;
        handling += 1;
        if (worker === current.worker) gate.release();
        const taken = unpackEntry(job.id, job.data);
        const isAhead = claimsAhead && taken !== undefined && taken.length > 1;
        let isOver = false;
        try {
          isOver =
            taken === undefined ? drop(job) : await handle(taken, isAhead, () => job.moveToWait(token));
        } catch (err) {
          isOver = err instanceof WaitingError;
          throw err;
        } finally {
          handling -= 1;
          if (worker === current.worker) await keepSlot(isOver, isAhead);
        }
      },
      {
        connection,
        prefix,
        concurrency: fetches,
        lockDuration: lockDurationMs,
        stalledInterval: stalledIntervalMs,
        // A delivery may stall any number of times: claims decide what runs, and crashes are counted in Postgres.
        maxStalledCount: 1_000_000,
        drainDelay: 5,
        skipVersionCheck: true,
        // Our entries say so themselves; what stands in the list without one, or is not ours, does not.
        removeOnComplete: { count: 0 },
        removeOnFail: { count: 0 },
      },
    );
    // "Missing lock" and the like are expected after a stall: the claim or the fence has settled it already.
    worker.on('error', (err) => log.debug({ queue, err: err.message }, 'worker error'));
    worker.on('failed', (_job, err) => log.debug({ queue, err: err.message }, 'delivery failed'));
    return { worker, connection };
  }

  /**
   * For what BullMQ fetches next. Not waited for while paused, when it fetches nothing, and when a claim failed: repair takes what is in
   * an open entry for delivered, so this one has to go, whether there is a slot for the next one or not.
   */
  async function keepSlot(isOver: boolean, isAhead: boolean): Promise<void> {
    if (isPaused || !isOver) gate.keepAnyway();
    else await (isAhead ? gate.keepAhead() : gate.keep());
  }

  function drop(job: Job): true {
    log.warn({ queue, id: job.id }, 'a delivery that is not ours was dropped');
    return true;
  }

  /**
   * @returns false when something of the entry was neither claimed nor given back.
   * @throws WaitingError when all of it goes back, for BullMQ to leave it alone.
   */
  async function handle(
    taken: readonly [Delivery, ...Delivery[]],
    isAhead: boolean,
    putBack: () => Promise<unknown>,
  ): Promise<boolean> {
    const claims: Promise<boolean>[] = [];
    // Where a slot is free, `enter` says at once whether there is memory, too.
    const isMoving = gate.busy() >= slots && performance.now() - lastEndedMs < movingMs;
    if (!isAhead || !isMoving || isPaused) {
      if (!(await enter(sleep(holdMs)))) {
        await putBack();
        throw new WaitingError();
      }
      claims.push(begin(taken[0], true));
    }
    const others = taken.slice(claims.length);
    if (isAhead) claims.push(...others.map(standInLine));
    else {
      const isOver = sleep(holdMs);
      for (const delivery of others) {
        if (!(await enter(isOver).catch(() => false))) break;
        claims.push(begin(delivery, true));
      }
    }
    await giveBack(taken.slice(claims.length));
    return (await Promise.all(claims)).every(Boolean);
  }

  /** Its claim may take as long as it likes: what is claimed should not go back for that. */
  function standInLine(delivery: Delivery): Promise<boolean> {
    const claimed = Promise.withResolvers<void>();
    const turn = createTurn();
    // What is claimed has to be told whether it may begin, also when nobody can tell whether there is room.
    const slot = enter(
      claimed.promise.then(() => sleep(holdMs)),
      turn,
    ).catch(() => false);
    return begin(delivery, slot, turn, claimed.resolve);
  }

  function createTurn(): Turn & { place: Promise<boolean> | undefined; hasBegun: boolean } {
    const turn = {
      place: undefined as Promise<boolean> | undefined,
      hasBegun: false,
      begin() {
        turn.hasBegun = true;
        if (turn.place !== undefined) gate.comeFirst(turn.place);
      },
      mayBeGiven: () => !isPaused && unclaimed === 0 && gate.begun() === 0 && options.isCrowded?.() !== true,
    };
    return turn;
  }

  /** @returns false when it cannot begin until `isOver` resolves, or must not any more. */
  async function enter(isOver: Promise<unknown>, turn?: ReturnType<typeof createTurn>): Promise<boolean> {
    let isLate = false;
    void isOver.then(() => (isLate = true));
    if (isPaused) return false;
    const place = gate.enter(isOver);
    if (turn === undefined) unclaimed += 1;
    else turn.place = place;
    // What has begun has the memory of the one whose place it took.
    const hasBegun = () => turn?.hasBegun === true;
    const isGivenUp = () => isPaused || isLate || hasBegun();
    let hasSlot = false;
    let isIn = false;
    try {
      hasSlot = await place;
      if (!hasSlot) return false;
      const isAdmitted = hasBegun() || ((await options.admit?.(isGivenUp)) ?? true);
      // BullMQ had asked for it before the pause.
      isIn = hasBegun() || (isAdmitted && !isPaused);
      return isIn;
    } finally {
      if (turn === undefined) unclaimed -= 1;
      if (hasSlot && !isIn) gate.leave();
    }
  }

  /** @returns true when its claim is decided; false when that failed, which leaves the delivery to repair. */
  function begin(
    delivery: Delivery,
    slot: true | Promise<boolean>,
    turn: Turn = createTurn(),
    onDecided: () => void = () => {},
  ): Promise<boolean> {
    let wasClaimed = false;
    return new Promise((resolve) => {
      const decide = (isClaimed: boolean) => {
        wasClaimed ||= isClaimed;
        onDecided();
        resolve(isClaimed);
      };
      void work(delivery, () => decide(true), slot, turn)
        .catch((err: unknown) => log.debug({ queue, err }, 'delivery failed'))
        .then(async () => {
          decide(false);
          if (!(await slot)) return;
          if (wasClaimed) lastEndedMs = performance.now();
          gate.leave();
        });
    });
  }

  /**
   * While a bundle is in our hands repair takes all of it for delivered: so this does not end before they are in Redis. Whoever stops
   * does not wait for a Redis that is away: then the bundle goes, and repair finds that they are missing.
   */
  async function giveBack(rest: readonly Delivery[]): Promise<void> {
    while (rest.length > 0) {
      try {
        await deliveries.giveBack(rest.map((delivery) => ({ ...delivery, queue })));
        return;
      } catch (err) {
        if (isPaused) throw err;
        log.debug({ queue, count: rest.length, err }, 'deliveries are given back a little later');
        await sleep(giveBackRetryMs);
      }
    }
  }

  async function discard(old: typeof current): Promise<void> {
    await old.worker.close(true).catch(() => {});
    old.connection.disconnect();
  }

  return {
    queue,
    busy: gate.busy,
    isIdle: () => gate.busy() === 0 && handling === 0,
    async pause() {
      isPaused = true;
      gate.giveUp();
      // true: do not wait for the running jobs; the caller has a deadline of its own.
      await current.worker.pause(true).catch(() => {});
    },
    async resume() {
      isPaused = false;
      lastTakenMs = performance.now();
      await current.worker.resume();
    },
    async watch(nowMs = performance.now()) {
      const isFull = gate.busy() >= slots || handling >= fetches;
      if (isPaused || isFull || nowMs - lastTakenMs < stuckAfterMs) return false;
      const waiting = await deliveries.countWaiting(queue).catch(() => 0);
      // Paused meanwhile: a new worker would take deliveries and put them back for as long as the pause lasts.
      if (waiting === 0 || isPaused) {
        lastTakenMs = nowMs;
        return false;
      }
      rebuilds += 1;
      log.error({ queue, waiting, rebuilds }, 'deliveries wait and none is taken: rebuilding the consumer');
      if (rebuilds > 2) options.onStuck();
      const old = current;
      current = build();
      gate.giveUp();
      gate.keepOnly(fetches);
      lastTakenMs = nowMs;
      void discard(old);
      return true;
    },
    async close() {
      isPaused = true;
      await discard(current);
    },
  };
}
