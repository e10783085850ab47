/**
 * Slots: jobs of one queue that a worker may run at once. Besides those that are taken some are kept, one for each fetch that may
 * bring a delivery at any moment: what is fetched should find a slot, or it would wait here while another worker has one (but see `keepAhead`). Kept is not
 * reserved: the further deliveries of a bundle take any slot, since a fetch may bring nothing. Always: kept = fetches that BullMQ may
 * make - entries that we have not given back to it.
 */
export interface SlotGate {
  /** Slots that are taken. */
  busy(): number;
  /** Takes a slot as soon as one is not taken, first come first served. @returns false when there was none until `isOver` resolved. */
  enter(isOver: Promise<unknown>): Promise<boolean>;
  /** Who waits with this promise of `enter` has begun: it has the next slot after others that have, however long that takes. */
  comeFirst(place: Promise<boolean>): void;
  /** How many wait that have begun. */
  begun(): number;
  /** Whoever waits longest has the slot now. */
  leave(): void;
  /** Resolves when a slot is neither taken nor kept, and keeps it. */
  keep(): Promise<void>;
  /**
   * The same, or as soon as somebody leaves and no more wait than half of the slots, and none is kept: the next slots but those are for what
   * is fetched now.
   */
  keepAhead(): Promise<void>;
  /** Keeps one although there may be none: a fetch that does not wait. */
  keepAnyway(): void;
  /** One is kept no longer. Whoever calls this enters, or keeps another: only then is it known whether there is room. */
  release(): void;
  /** So many, whatever was kept before. */
  keepOnly(count: number): void;
  /** All that wait go on: those that enter without a slot, unless they have begun. */
  giveUp(): void;
}

/** @param kept slots that are kept from the beginning, also more than there are. */
export function createSlotGate(size: number, kept: number): SlotGate {
  /** So many slots are given again while the next bundle is fetched and claimed. */
  const shortLine = Math.floor(size / 2);
  let busy = 0;
  const entering = new Map<Promise<boolean>, (isFree: boolean) => void>();
  /** Those of them that have begun. */
  const begun = new Set<Promise<boolean>>();
  let keeping: { resolve: () => void; isAhead: boolean }[] = [];

  function wakeKeeping(): void {
    while (busy + kept < size) {
      const next = keeping.shift();
      if (next === undefined) return;
      kept += 1;
      next.resolve();
    }
  }

  function wakeAhead(): void {
    const next = keeping.find(({ isAhead }) => isAhead);
    if (next === undefined) return;
    keeping = keeping.filter((other) => other !== next);
    kept += 1;
    next.resolve();
  }

  function giveUp(place: Promise<boolean>): void {
    if (!begun.has(place)) entering.get(place)?.(false);
  }

  function keep(isAhead: boolean): Promise<void> {
    return new Promise((resolve) => {
      keeping.push({ resolve, isAhead });
      wakeKeeping();
    });
  }

  return {
    busy: () => busy,
    enter(isOver) {
      if (busy < size) {
        busy += 1;
        return Promise.resolve(true);
      }
      const { promise: place, resolve } = Promise.withResolvers<boolean>();
      entering.set(place, (isFree) => {
        entering.delete(place);
        begun.delete(place);
        resolve(isFree);
      });
      void isOver.then(() => giveUp(place));
      return place;
    },
    comeFirst(place) {
      if (entering.has(place)) begun.add(place);
    },
    begun: () => begun.size,
    leave() {
      const [place] = begun.size > 0 ? begun : entering.keys();
      const next = place === undefined ? undefined : entering.get(place);
      if (next === undefined) {
        busy -= 1;
        wakeKeeping();
      } else {
        next(true);
        if (entering.size <= shortLine && kept === 0) wakeAhead();
      }
    },
    keep: () => keep(false),
    keepAhead: () => keep(true),
    keepAnyway() {
      kept += 1;
    },
    release() {
      kept -= 1;
    },
    keepOnly(count) {
      kept = count;
      wakeKeeping();
    },
    giveUp() {
      for (const place of entering.keys()) giveUp(place);
      kept += keeping.length;
      for (const { resolve } of keeping) resolve();
      keeping = [];
    },
  };
}
