/** Lists in pages: what to ask, what is answered, and the way from one page to the next, for lists in the order of one key. */
import { z } from 'zod';
import { decodeCursor, encodeCursor, invalidCursor } from './cursor.ts';

/** @param what stands on a page, for the documentation: "Schedules". */
export function pageQuery(what: string, limit: { max: number; default: number } = { max: 100, default: 20 }) {
  return z.strictObject({
    limit: z.coerce
      .number()
      .int()
      .min(1)
      .max(limit.max)
      .default(limit.default)
      .describe(`${what} on one page.`),
    cursor: z.string().max(200).optional().describe('`nextCursor` of the previous page.'),
  });
}

/** @param id of the schema in the OpenAPI document. */
export function pageSchema<Item extends z.ZodType>(item: Item, id: string) {
  return z
    .object({
      data: z.array(item),
      nextCursor: z.string().nullable().describe('Null on the last page.'),
    })
    .meta({ id });
}

/** @throws AppError `invalid-cursor`. */
export async function readPage<Row, Presented>(
  query: { readonly limit: number; readonly cursor?: string | undefined },
  list: {
    /** Cursors of one list mean nothing to another. */
    readonly filter: string;
    readonly isKey: (key: string) => boolean;
    /** Rows beyond `key` in the order of the list, from its beginning when there is none. */
    readonly read: (key: string | undefined, limit: number) => Promise<readonly Row[]>;
    readonly keyOf: (row: Row) => string;
    readonly present: (row: Row) => Presented;
  },
): Promise<{ data: Presented[]; nextCursor: string | null }> {
  const key = query.cursor === undefined ? undefined : decodeCursor(list.filter, query.cursor);
  if (key !== undefined && !list.isKey(key)) throw invalidCursor();
  // One more than asked for tells whether there is another page.
  const rows = await list.read(key, query.limit + 1);
  const page = rows.slice(0, query.limit);
  const last = rows.length > page.length ? page.at(-1) : undefined;
  return {
    data: page.map((row) => list.present(row)),
    nextCursor: last === undefined ? null : encodeCursor(list.filter, list.keyOf(last)),
  };
}
