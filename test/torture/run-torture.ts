/**
 * One run: clients send jobs, the nemesis breaks things, then everything is mended, what was accepted has to end, and the
 * history is held against the invariants.
 */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createDb, type Db } from '#shared/db/pool.ts';
import { checkHistory } from '#test/support/check-history.ts';
import { createClient } from '#test/support/service.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { checkClientView } from './check-client-view.ts';
import { watchLeaks, type LeakWatch } from './check-leaks.ts';
import { checkHolds, checkLimits, readRunsOfKeys } from './check-limits.ts';
import { checkConnections, checkExits, checkLogs, checkRedisKeys } from './check-remains.ts';
import { runClients, type Tenant } from './clients.ts';
import { adminKey, startCluster, type Cluster } from './cluster.ts';
import { faultKinds, healAll } from './faults.ts';
import { createHistory, type History, type HistoryEntry } from './history.ts';
import { jobKinds, type FinalJob } from './job-kinds.ts';
import { runNemesis } from './nemesis.ts';
import { createRandom } from './random.ts';
import { readFinalJobs } from './read-final-jobs.ts';
import { createRetryingClient } from './retrying-client.ts';
import { checkLastTicks, putSchedules, scheduleKind } from './schedules.ts';

export interface TortureOptions {
  readonly seed: number;
  /** How long things break. */
  readonly minutes: number;
  /** Default 2. */
  readonly apis?: number;
  /** Default 4. */
  readonly workers?: number;
  /** Jobs a second. Default 20. */
  readonly rate?: number;
  /** What was accepted has to end this soon after everything works again (I2). Default 120 s. */
  readonly drainMs?: number;
  /** Keep history, record and logs also when nothing is wrong. */
  readonly isKept?: boolean;
  /** Only faults with these names. Default: all. */
  readonly faults?: readonly string[];
  /** Only jobs of these kinds. Default: all. */
  readonly kinds?: readonly string[];
  readonly log: (line: string) => void;
}

export interface TortureReport {
  readonly seed: number;
  readonly problems: readonly string[];
  readonly entries: readonly HistoryEntry[];
  readonly jobs: readonly FinalJob[];
  /** Where history, record and logs are; undefined when they were deleted, because nothing was wrong. */
  readonly folder: string | undefined;
}

export async function runTorture(options: TortureOptions): Promise<TortureReport> {
  const { seed, log } = options;
  const dir = mkdtempSync(join(tmpdir(), `windlass-torture-${seed}-`));
  // Servers and task hosts run as users of their own and have to get through.
  chmodSync(dir, 0o711);
  const folder = join(dir, 'report');
  const history = createHistory(join(folder, 'history.jsonl'));
  const problems: string[] = [];
  const isKept = () => problems.length > 0 || options.isKept === true;
  let jobs: FinalJob[] = [];
  let cluster: Cluster | undefined;
  let leaks: LeakWatch | undefined;
  try {
    cluster = await startCluster({
      dir,
      apis: options.apis ?? 2,
      workers: options.workers ?? 4,
      history,
    });
    await waitFor(() => (processesOf(cluster).every((process) => process.isReady()) ? true : undefined), {
      what: 'all processes to be ready',
      deadlineMs: 60_000,
    });
    log(`seed ${seed}: everything runs, and now it breaks for ${Math.round(options.minutes * 60)} s`);
    leaks = watchLeaks(processesOf(cluster), cluster, history);
    const db = createDb({ url: cluster.world.databaseUrl, size: 2, timeoutMs: 10_000, name: 'torture' });
    try {
      problems.push(...(await breakAndDrain({ ...options, cluster, history, db })));
      jobs = await readFinalJobs(db, cluster.receivers);
      problems.push(
        ...checkClientView(history.entries, jobs),
        ...(await checkLimits(db)),
        ...checkHolds(cluster.receivers.holds, jobs, await readRunsOfKeys(db)),
        ...(await leaks.check()),
        ...(await stopAndCheck(cluster, history, db)),
      );
    } finally {
      await db.end();
    }
  } catch (err) {
    problems.push(
      `the run itself failed: ${err instanceof Error ? (err.stack ?? err.message) : String(err)}`,
    );
  } finally {
    leaks?.stop();
    if (cluster !== undefined) {
      await cluster.dispose();
      if (isKept()) writeEvidence(folder, cluster, { jobs, problems });
    }
    await history.close();
    for (const name of isKept() ? ['data', 'postgres', 'redis'] : ['.'])
      rmSync(join(dir, name), { recursive: true, force: true });
  }
  return {
    seed,
    problems: [...new Set(problems)],
    entries: history.entries,
    jobs,
    folder: isKept() ? folder : undefined,
  };
}

function processesOf(cluster: Cluster | undefined) {
  return cluster === undefined ? [] : [...cluster.apis.map(({ process }) => process), ...cluster.workers];
}

/** @returns the problems of jobs that did not end, and of schedules that did not go on. */
async function breakAndDrain({
  cluster,
  history,
  db,
  seed,
  minutes,
  rate = 20,
  drainMs = 120_000,
  faults,
  kinds,
  log,
}: TortureOptions & { cluster: Cluster; history: History; db: Db }): Promise<string[]> {
  const random = createRandom(seed);
  const stop = new AbortController();
  const giveUp = new AbortController();
  const client = createRetryingClient({
    urls: cluster.apis.map((api) => api.url),
    random: random.fork('client'),
    giveUp: giveUp.signal,
    onUnexpected: (what) => history.add({ type: 'unexpected', what }),
  });
  const tenants = await makeTenants(cluster);
  const [first] = tenants;
  const isScheduling = kinds === undefined || kinds.includes(scheduleKind);
  if (isScheduling) await putSchedules(client, first, { paused: false });
  history.add({ type: 'phase', name: 'clients begin' });
  const clients = runClients({
    client,
    tenants,
    postUrl: cluster.receivers.postUrl,
    random: random.fork('clients'),
    history,
    kinds: choose(
      'kind of job',
      jobKinds,
      kinds?.filter((name) => name !== scheduleKind),
    ),
    rate,
    stop: stop.signal,
  });
  const nemesis = runNemesis({
    cluster,
    kinds: choose('fault', faultKinds, faults),
    random: random.fork('nemesis'),
    history,
    stop: stop.signal,
  });
  await sleep(minutes * 60_000);
  stop.abort();
  await nemesis;
  await healAll(cluster);
  history.add({ type: 'phase', name: 'healed' });
  log(`seed ${seed}: everything works again; waiting for what was accepted to end`);

  const deadline = setTimeout(() => giveUp.abort(), drainMs);
  const problems: string[] = [];
  if (isScheduling) {
    problems.push(...(await checkLastTicks(db, giveUp.signal)));
    await putSchedules(client, first, { paused: true });
  }
  await clients;
  const left = await waitUntilEnded(db, giveUp.signal);
  clearTimeout(deadline);
  giveUp.abort();
  history.add({ type: 'phase', name: 'drained' });
  for (const job of left)
    problems.push(`I2: ${job} has not ended ${drainMs / 1_000} s after everything worked again`);
  return problems;
}

/** @throws Error that lists what there is, when a name is none of it. */
function choose<Item extends { readonly name: string }>(
  what: string,
  items: readonly Item[],
  names: readonly string[] | undefined,
): readonly Item[] {
  if (names === undefined) return items;
  const unknown = names.filter((name) => !items.some((item) => item.name === name));
  if (unknown.length > 0)
    throw new Error(
      `There is no ${what} "${unknown.join(', ')}". Known: ${items.map((item) => item.name).join(', ')}.`,
    );
  return items.filter((item) => names.includes(item.name));
}

async function makeTenants({ apis }: Cluster): Promise<readonly [Tenant, Tenant]> {
  const response = await createClient(apis[0]?.url ?? '', adminKey).post('/v1/keys', {
    name: 'torture',
    tenantId: 'other',
    scopes: ['submit', 'read'],
  });
  if (response.status !== 201) throw new Error(`A key was not made: ${await response.text()}`);
  const { key } = (await response.json()) as { key: string };
  return [
    { name: 'default', key: adminKey },
    { name: 'other', key },
  ];
}

/** @returns the jobs that have not ended when it was given up. */
async function waitUntilEnded(db: Db, giveUp: AbortSignal): Promise<string[]> {
  for (;;) {
    const { rows } = await db.query<{ job: string }>(
      `SELECT id || ' (' || task || ', ' || state || ')' AS job FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled') LIMIT 20`,
    );
    if (rows.length === 0 || giveUp.aborted) return rows.map(({ job }) => job);
    await sleep(200);
  }
}

/** Ends all processes in order, and looks at what is left. */
async function stopAndCheck(cluster: Cluster, history: History, db: Db): Promise<string[]> {
  const problems = await checkRedisKeys(cluster);
  const processes = processesOf(cluster);
  // One that the nemesis killed at the very end has to come up first: only a whole start ends in order.
  await waitFor(() => (processes.every((process) => process.isReady()) ? true : undefined), {
    what: 'all processes to be ready again',
    deadlineMs: 60_000,
  }).catch((err: unknown) => problems.push(`I2: ${String(err)}`));
  const codes = await Promise.all(processes.map((process) => process.stop()));
  for (const [index, code] of codes.entries()) {
    if (code !== 0)
      problems.push(`I14: ${processes[index]?.name} ended with ${code} when it was asked to stop`);
  }
  problems.push(
    ...checkLogs(processes),
    ...checkExits(history.entries, processes),
    ...(await checkConnections(db, cluster)),
  );
  const accepted = history.entries.flatMap((entry) => (entry.type === 'accepted' ? [entry.id] : []));
  await checkHistory(cluster.world, accepted).catch((err: unknown) =>
    problems.push(...(err instanceof Error ? err.message : String(err)).split('\n')),
  );
  return problems;
}

function writeEvidence(
  folder: string,
  cluster: Cluster,
  { jobs, problems }: Pick<TortureReport, 'jobs' | 'problems'>,
): void {
  writeFileSync(join(folder, 'problems.txt'), `${problems.join('\n')}\n`);
  writeFileSync(join(folder, 'jobs.jsonl'), jobs.map((job) => `${JSON.stringify(job)}\n`).join(''));
  mkdirSync(join(folder, 'logs'), { recursive: true });
  for (const { name, processes } of processesOf(cluster)) {
    for (const [index, process] of processes.entries())
      writeFileSync(
        join(folder, 'logs', `${name}.${index + 1}-pid-${process.pid}.log`),
        `${process.lines.join('\n')}\n`,
      );
  }
}
