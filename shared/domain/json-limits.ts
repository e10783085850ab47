import { toPointer } from './json-pointer.ts';
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
  return walk(value, 1);

  // The pointer is made on the way back, so that a document without a problem costs none.
  function walk(node: unknown, depth: number): JsonProblem | undefined {
    if (typeof node === 'string') return isStorable(node) ? undefined : { type: 'unstorable', pointer: '' };
    if (typeof node !== 'object' || node === null) return undefined;
    if (depth > limits.depthMax) return { type: 'too-deep', pointer: '' };
    for (const key of Object.keys(node)) {
      keys += 1;
      if (keys > limits.keysMax) return { type: 'too-many-keys', pointer: toPointer([key]) };
      if (!isStorable(key)) return { type: 'unstorable', pointer: toPointer([key]) };
      const problem = walk((node as Record<string, unknown>)[key], depth + 1);
      if (problem !== undefined) return { ...problem, pointer: toPointer([key]) + problem.pointer };
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
