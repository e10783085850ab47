/**
 * Finds connections to Postgres that are half-open: open as far as this side can see, while nothing arrives any more (a
 * firewall or a load balancer forgot them, a machine in between was lost). Without this a statement on one would wait for
 * its time limit of 35 s, and the next statement for the next connection's.
 *
 * A connection that has been in use for some seconds is asked about on a fresh one. Where Postgres says that this backend
 * has had nothing to do for as long, the request or its answer was lost on the way, and the connection is
 * closed: what waits for it fails as with any lost connection. What Postgres is working on is left alone, however long it takes, and so
 * is what it does not know: behind a pooler that hands out connections per transaction, numbers of backends mean nothing.
 */
import pg from 'pg';

const lookEveryMs = 1_000;
const suspectAfterMs = 4_000;
const askMs = 3_000;

// The name keeps numbers that a pooler has made up from meeting somebody else's backend.
const idleSql = `SELECT pid FROM pg_stat_activity WHERE pid = ANY($1) AND usename = current_user AND application_name = $2
  AND state LIKE 'idle%' AND state_change < now() - $3 * interval '1 ms'`;

/** Watches all connections of the pool until it is ended. */
export function closeHalfOpen(pool: pg.Pool, options: { url: string; name: string }): void {
  const inUseSinceMs = new Map<pg.PoolClient, number>();
  const idle = new Set<pg.PoolClient>();
  let isLooking = false;
  pool.on('acquire', (client) => {
    idle.delete(client);
    inUseSinceMs.set(client, performance.now());
  });
  pool.on('release', (_err, client) => {
    inUseSinceMs.delete(client);
    idle.add(client);
  });
  pool.on('remove', (client) => {
    inUseSinceMs.delete(client);
    idle.delete(client);
  });

  async function look(): Promise<void> {
    const before = performance.now() - suspectAfterMs;
    const suspects = [...inUseSinceMs]
      .filter(([client, since]) => since < before && isWaiting(client))
      .map(([client]) => client);
    if (suspects.length === 0) return;
    const lost = new Set(await listIdle(suspects.map(backendOf), options));
    const halfOpen = suspects.filter(
      (client) => lost.has(backendOf(client)) && inUseSinceMs.has(client) && isWaiting(client),
    );
    if (halfOpen.length === 0) return;
    // Those at rest went the same way, and would each cost the next statement as much time. The pool drops a connection that
    // reports an error while it is at rest.
    for (const client of idle)
      client.emit('error', new Error('Another connection turned out to be half-open.'));
    for (const client of halfOpen) void client.end();
  }

  const timer = setInterval(() => {
    if (pool.ending) {
      clearInterval(timer);
      return;
    }
    if (isLooking) return;
    isLooking = true;
    look()
      // Postgres is away, or not reachable: then connections are not half-open, or nobody can tell.
      .catch(() => {})
      .finally(() => {
        isLooking = false;
      });
  }, lookEveryMs);
  timer.unref();
}

/** Somebody who does not wait for an answer (between two statements of a transaction) is not harmed by a lost one. */
function isWaiting(client: pg.PoolClient): boolean {
  // oxlint-disable-next-line no-underscore-dangle -- The same without it says that it is deprecated, once, on stderr.
  return (client as pg.PoolClient & { _activeQuery: object | null })._activeQuery !== null;
}

/** The process id that Postgres gave the connection when it was made; the types of node-postgres leave it out. */
function backendOf(client: pg.PoolClient): number {
  return (client as pg.PoolClient & { processID: number }).processID;
}

async function listIdle(
  backends: readonly number[],
  { url, name }: { url: string; name: string },
): Promise<number[]> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: askMs,
    query_timeout: askMs,
    application_name: `${name}-watch`,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{ pid: number }>(idleSql, [backends, name, suspectAfterMs]);
    return rows.map((row) => row.pid);
  } finally {
    // Not awaited: this connection may be lost as well.
    void client.end().catch(() => {});
  }
}
