import { isStorable } from './text.ts';

export interface JsonLimits {
  readonly depthMax: number;
  /** Keys of objects and items of arrays, together. */
  readonly keysMax: number;
}

export type JsonProblem =
  | { readonly type: 'too-deep' | 'too-many-keys'; readonly pointer: string }
  | { readonly type: 'unstorable'; readonly pointer: string };

/** One walk over a parsed document: what is wrong with it before any schema looks at it. */
export function findJsonProblem(value: unknown, limits: JsonLimits): JsonProblem | undefined {
  let keys = 0;
  return walk(value, '', 1);

  function walk(node: unknown, pointer: string, depth: number): JsonProblem | undefined {
    if (typeof node === 'string') return isStorable(node) ? undefined : { type: 'unstorable', pointer };
    if (typeof node !== 'object' || node === null) return undefined;
    if (depth > limits.depthMax) return { type: 'too-deep', pointer };
    for (const [key, item] of Object.entries(node)) {
      keys += 1;
      const place = `${pointer}/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`;
      if (keys > limits.keysMax) return { type: 'too-many-keys', pointer: place };
      if (!isStorable(key)) return { type: 'unstorable', pointer: place };
      const problem = walk(item, place, depth + 1);
      if (problem !== undefined) return problem;
    }
    return undefined;
  }
}

/** JSON with sorted keys: equal values give equal text, whatever order the client wrote them in. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) =>
    typeof item === 'object' && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  );
}
