/**
 * Patterns for paths: `*` and `?` within a name, `**` for any folders; without a `/`, a name in any folder. Not a regular
 * expression, which a client could make slow: the time is at most the length of the path times that of the pattern.
 */
export function createMatcher(patterns: string | readonly string[]): (path: string) => boolean {
  const compiled = [patterns].flat().map(compile);
  return (path) => {
    const parts = fold(path)
      .split('/')
      .map((part) => Array.from(part));
    return compiled.some((pattern) => matchSequence(pattern, parts, isAnyFolders, matchName));
  };
}

type Pattern = readonly (readonly string[])[];

function compile(pattern: string): Pattern {
  const parts = fold(pattern)
    .split('/')
    .filter((part) => part !== '' && part !== '.');
  return (pattern.includes('/') ? parts : ['**', ...parts]).map((part) => Array.from(part));
}

function fold(text: string): string {
  return text.normalize('NFC').toLowerCase();
}

const isAnyFolders = (part: readonly string[]): boolean => part.length === 2 && part.join('') === '**';

const matchName = (pattern: readonly string[], name: readonly string[]): boolean =>
  matchSequence(
    pattern,
    name,
    (character) => character === '*',
    (wanted, character) => wanted === '?' || wanted === character,
  );

/**
 * Whether the items fit the pattern, of whose parts some stand for any number of items. Going back to the latest of those
 * is enough: what an earlier one could take as well, the latest can.
 */
function matchSequence<Part, Item>(
  pattern: readonly Part[],
  items: readonly Item[],
  isAny: (part: Part) => boolean,
  matches: (part: Part, item: Item) => boolean,
): boolean {
  let at = 0;
  let next = 0;
  let any = -1;
  let tried = 0;
  while (next < items.length) {
    const part = pattern[at];
    const item = items[next];
    if (part !== undefined && isAny(part)) {
      any = at;
      at += 1;
      tried = next;
    } else if (part !== undefined && item !== undefined && matches(part, item)) {
      at += 1;
      next += 1;
    } else if (any !== -1) {
      tried += 1;
      next = tried;
      at = any + 1;
    } else {
      return false;
    }
  }
  return pattern.slice(at).every(isAny);
}
