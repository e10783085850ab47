/** How many slots are given: to runs, and to deliveries that are just being claimed. Whether they will give memory back (memory-gate.ts). */
export interface Admitted {
  isBusy(): boolean;
  /** Counts from when `slot` is given until `run` ends; one that fails before that is told at once, and its slot counts as given back. */
  during(slot: true | Promise<boolean>, run: () => Promise<void>): Promise<void>;
}

export function createAdmitted(): Admitted {
  let count = 0;

  async function begin(slot: true | Promise<boolean>): Promise<boolean> {
    const isGiven = slot === true || (await slot);
    if (isGiven) count += 1;
    return isGiven;
  }

  return {
    isBusy: () => count > 0,
    async during(slot, run) {
      const begun = begin(slot);
      try {
        await run();
      } finally {
        // Not waited for: a claim that failed has to be known at once, and its slot may be far away.
        void begun.then((isGiven) => {
          if (isGiven) count -= 1;
        });
      }
    },
  };
}
