/** Pseudo-random numbers from a seed: the same seed gives the same plan of faults and the same jobs. */
export interface Random {
  /** From 0 up to, and without, 1. */
  next(): number;
  /** Both ends included. */
  int(min: number, max: number): number;
  chance(probability: number): boolean;
  /** @throws RangeError when there is nothing to pick from. */
  pick<Item>(items: readonly Item[]): Item;
  pickWeighted<Item extends { readonly weight: number }>(items: readonly Item[]): Item;
  /** A sequence of its own, so that how much one part draws changes nothing for another. */
  fork(name: string): Random;
}

export function createRandom(seed: number | string): Random {
  let state = hash(String(seed));
  // mulberry32 (Tommy Ettinger, public domain): small, and good enough to choose what breaks next.
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const pick = <Item>(items: readonly Item[]): Item => {
    const item = items[Math.floor(next() * items.length)];
    if (item === undefined) throw new RangeError('There is nothing to pick from.');
    return item;
  };
  return {
    next,
    int: (min, max) => min + Math.floor(next() * (max - min + 1)),
    chance: (probability) => next() < probability,
    pick,
    pickWeighted(items) {
      let left = next() * items.reduce((sum, item) => sum + item.weight, 0);
      for (const item of items) {
        left -= item.weight;
        if (left < 0) return item;
      }
      return pick(items);
    },
    fork: (name) => createRandom(`${seed}/${name}`),
  };
}

/** FNV-1a. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (const char of text) value = Math.imul(value ^ (char.codePointAt(0) ?? 0), 0x01000193);
  return value | 0;
}
