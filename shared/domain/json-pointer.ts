/** JSON Pointers (RFC 6901): where in a document something is, as one string. */

/** The pointer to what lies at `path`, from the root: '' is the document itself. */
export function toPointer(path: readonly PropertyKey[]): string {
  return path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}

/** The inverse of `toPointer`. */
export function toPath(pointer: string): string[] {
  return pointer
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
}

/**
 * What the `$ref` of a JSON Schema refers to in the schema itself (`#`, `#/$defs/name`).
 * @returns undefined when there is nothing, or when it refers to another document.
 */
export function resolveRef(root: unknown, ref: string): unknown {
  if (ref !== '#' && !ref.startsWith('#/')) return undefined;
  let node = root;
  for (const part of toPath(ref.slice(1))) {
    if (typeof node !== 'object' || node === null || !Object.hasOwn(node, part)) return undefined;
    node = (node as Readonly<Record<string, unknown>>)[part];
  }
  return node;
}
