/** Many jobs of one batch, or items of one step, end in this time, in ms: one look for all. */
const gatherMs = 50;

export interface Notes {
  /** Wakes a moment later. */
  add(id: string): void;
  /** Works on the ids that were noted since the last time; when that fails they are noted still. */
  take(work: (ids: readonly string[]) => Promise<void>): Promise<void>;
  /** Wakes nobody any more. */
  stop(): void;
}

/** Ids that a loop should look at before its time. */
export function createNotes(wake: () => void): Notes {
  let noted = new Set<string>();
  let timer: NodeJS.Timeout | undefined;
  return {
    add(id) {
      noted.add(id);
      timer ??= setTimeout(() => {
        timer = undefined;
        wake();
      }, gatherMs);
    },
    async take(work) {
      if (noted.size === 0) return;
      const taken = noted;
      noted = new Set();
      try {
        await work([...taken]);
      } catch (err) {
        for (const id of taken) noted.add(id);
        throw err;
      }
    },
    stop: () => clearTimeout(timer),
  };
}
