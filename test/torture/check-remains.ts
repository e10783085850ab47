/** I11, I14: what is left in Redis, of connections and in the logs. */
import { Redis } from 'ioredis';
import type { Db } from '#shared/db/pool.ts';
import { findLogProblems, parseLine } from '#test/support/check-log.ts';
import { waitFor } from '#test/support/wait-for.ts';
import type { Cluster } from './cluster.ts';
import type { HistoryEntry } from './history.ts';
import type { Supervised } from './supervised.ts';

/**
 * Deliveries of jobs that have ended: workers take them, find nothing to claim, and they are gone. One whose worker died is
 * offered again when its lock has run out, hence the wait.
 * @returns what is left all the same.
 */
export async function checkRedisKeys({ redis, world }: Cluster): Promise<string[]> {
  const client = new Redis(redis.url, { lazyConnect: true });
  client.on('error', () => undefined);
  const list = () => client.keys(`${world.redisPrefix}:*:j_*`);
  let left: string[] = [];
  try {
    await client.connect();
    await waitFor(
      async () => {
        left = await list();
        return left.length === 0 ? true : undefined;
      },
      { what: 'Redis to hold no delivery', deadlineMs: 30_000 },
    ).catch(() => undefined);
    return left.map((key) => `I11: a delivery of a job that has ended is left in Redis: ${key}`);
  } finally {
    client.disconnect();
  }
}

/** After all processes have ended. */
export async function checkConnections(
  db: Db,
  { redis, redisProxy, postgresProxy }: Cluster,
): Promise<string[]> {
  // A connection that lost bytes is half-open for ever, as far as the server can see.
  redisProxy.cut();
  postgresProxy.cut();
  const client = new Redis(redis.url, { lazyConnect: true });
  client.on('error', () => undefined);
  let left: string[] = [];
  try {
    await client.connect();
    await waitFor(
      async () => {
        const { rows } = await db.query<{ name: string }>(
          `SELECT application_name AS name FROM pg_stat_activity WHERE application_name LIKE 'windlass%'`,
        );
        const clients = String(await client.call('CLIENT', 'LIST', 'TYPE', 'normal'))
          .trim()
          .split('\n');
        left = [
          ...rows.map(({ name }) => `I11: a connection to Postgres is still open: ${name}`),
          ...(clients.length > 1 ? [`I11: ${clients.length - 1} connections to Redis are still open`] : []),
        ];
        return left.length === 0 ? true : undefined;
      },
      { what: 'all connections to be closed', deadlineMs: 10_000 },
    ).catch(() => undefined);
    return left;
  } finally {
    client.disconnect();
  }
}

export function checkLogs(processes: readonly Supervised[]): string[] {
  return processes.flatMap(({ name, processes: all }) =>
    all.flatMap((process) => {
      // Before it is ready, a process without its database may only end; whoever started it tries again.
      const readyAt = process.lines.findIndex((line) =>
        /^(api|worker) ready$/.test(parseLine(line)?.msg ?? ''),
      );
      const lines = readyAt === -1 ? [] : process.lines.slice(readyAt);
      return findLogProblems(`${name} (pid ${process.pid})`, lines);
    }),
  );
}

/** What may cost a worker its lease: it stood still, or could not reach Postgres for as long as a query may take. */
const leaseFaults = /^(freeze-worker|postgres-)/;
const leaseFaultMs = 45_000;

/** A process ends only when somebody ended it, when it was rightly declared dead, or when it could not start. */
export function checkExits(entries: readonly HistoryEntry[], processes: readonly Supervised[]): string[] {
  const problems: string[] = [];
  const deaths: string[] = [];
  const byPid = new Map(
    processes.flatMap(({ name, processes: all }) =>
      all.map((process) => [`${name}/${process.pid}`, process]),
    ),
  );
  for (const entry of entries) {
    if (entry.type !== 'process-ended' || entry.wanted) continue;
    const messages =
      byPid.get(`${entry.name}/${entry.pid}`)?.lines.map((line) => parseLine(line)?.msg ?? '') ?? [];
    const wasReady = messages.some((message) => /^(api|worker) ready$/.test(message));
    if (!wasReady) continue;
    if (!messages.includes('declared dead by another worker'))
      problems.push(`I14: ${entry.name} (pid ${entry.pid}) ended by itself with code ${entry.code}`);
    else if (!entries.some((other) => isReason(other, entry)))
      deaths.push(`I9: ${entry.name} (pid ${entry.pid}) was declared dead, and nothing had happened to it`);
  }
  // On a machine that is busy with other things a process may stand still for longer than its lease, once in a while.
  return deaths.length > processes.length ? [...problems, ...deaths] : problems;
}

function isReason(other: HistoryEntry, death: HistoryEntry & { readonly name: string }): boolean {
  return (
    other.type === 'fault' &&
    leaseFaults.test(other.name) &&
    (other.target === death.name || other.target.startsWith('postgres')) &&
    other.at <= death.at &&
    other.at + other.ms + leaseFaultMs >= death.at
  );
}
