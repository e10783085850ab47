import type { Queryable } from './pool.ts';

/** Now, by the clock that decides, as ISO 8601 with all its microseconds (a Date has none). */
export async function readClock(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ now: string }>(
    `SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS now`,
  );
  const [row] = rows;
  if (row === undefined) throw new Error('The clock answered no row.');
  return row.now;
}
