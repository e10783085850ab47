/** The worker process: wiring only, top to bottom in start order; the lifecycle stops it in reverse. */
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { readConfig } from '#shared/config.ts';
import { armCrashPoint } from '#shared/crash-point.ts';
import { createClaimJobs } from '#shared/db/claim-jobs.ts';
import { ensureQueues, setQueueRates } from '#shared/db/feed-queues.ts';
import { migrate } from '#shared/db/migrate.ts';
import { createHotDb } from '#shared/db/pool.ts';
import { createSettleRuns } from '#shared/db/settle-runs.ts';
import { registerWorker, removeWorker } from '#shared/db/workers.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createDiskThreads } from '#shared/disk/disk-threads.ts';
import { createLifecycle } from '#shared/lifecycle.ts';
import { createLogger } from '#shared/log.ts';
import {
  createConsumerConnection,
  createProducerConnection,
  createSubscriberConnection,
  watchRedisState,
} from '#shared/queue/connections.ts';
import { createConsumer } from '#shared/queue/consumer.ts';
import { createDeliveries } from '#shared/queue/deliveries.ts';
import { createSignalPublisher, listenForSignal } from '#shared/queue/signals.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { loadTasks } from '#shared/tasks/load-tasks.ts';
import { findQueueRates } from '#shared/tasks/queue-rates.ts';
import { readVersion } from '#shared/version.ts';
import { builtInTasks } from '#tasks/index.ts';
import { createAdmitted } from './admitted.ts';
import { createBacklogGate } from './backlog-gate.ts';
import { createBulkSteps } from './bulk-step.ts';
import { createDisk } from './disk.ts';
import { endGroupMax, endingGroupsMax } from './end-groups.ts';
import { createEachSteps } from './each-step.ts';
import { createPrepareInHost } from './execute-in-host.ts';
import { createExecuteInline } from './execute-inline.ts';
import { readAvailableMemory } from './available-memory.ts';
import { createReports } from './job-reports.ts';
import { createMemoryGate } from './memory-gate.ts';
import { createOutputStore } from './output-store.ts';
import { findQueuesAhead } from './queues-ahead.ts';
import { createRunJob } from './run-job.ts';
import { createRuns } from './runs.ts';
import { createBatchKeeper } from './services/batch-keeper.ts';
import { createFeeder } from './services/feeder.ts';
import { startHealthServer } from './services/health-server.ts';
import { createItemKeeper } from './services/item-keeper.ts';
import { createJanitor } from './services/janitor.ts';
import { createLeaseKeeper } from './services/lease-keeper.ts';
import { createReaper } from './services/reaper.ts';
import { createReleaser } from './services/releaser.ts';
import { createScheduler } from './services/scheduler.ts';
import { createTaskRules } from './task-rules.ts';
import { assignSlots } from './slots.ts';
import { createTenantRoom } from './tenant-room.ts';
import { createHostPool } from './task-host/host-pool.ts';
import { createWorkerScratch, openWayToScratch } from './task-host/scratch.ts';
import { findPrivileges } from './task-host/privileges.ts';

const config = readConfig();
armCrashPoint(config.CRASH_AT);
const workerId = uuidv7();
const log = createLogger({ service: 'worker', level: config.LOG_LEVEL }).child({ workerId });
const lifecycle = createLifecycle({ log, deadlineMs: config.WINDLASS_GRACE_MS + 10_000 });

const tasks = await loadTasks(builtInTasks, config.WINDLASS_TASKS_DIR);
const definitions = [...tasks.values()].map((task) => task.definition);
const slots = assignSlots(definitions, {
  named: config.WINDLASS_QUEUES,
  process: config.WINDLASS_SLOTS,
  inline: config.WINDLASS_INLINE_SLOTS,
});
const queues = Object.keys(slots.perQueue);

await migrate(config.DATABASE_URL);
const db = createHotDb({
  url: config.DATABASE_URL,
  size: config.WINDLASS_DB_POOL,
  timeoutMs: config.WINDLASS_DB_TIMEOUT_MS,
  name: 'windlass-worker',
});
lifecycle.onStop('postgres', () => db.end());
await ensureQueues(db, queues);
await setQueueRates(db, findQueueRates(definitions));

const redis = createProducerConnection(config.REDIS_URL, log);
const subscriber = createSubscriberConnection(config.REDIS_URL, log);
lifecycle.onStop('redis', () => {
  redis.disconnect();
  subscriber.disconnect();
});
watchRedisState(redis, log);
const deliveries = createDeliveries({ redis, prefix: config.REDIS_PREFIX });
const signals = createSignalPublisher({ redis, prefix: config.REDIS_PREFIX });

const dataDir = resolve(config.WINDLASS_DATA_DIR);
const scratch = await createWorkerScratch(dataDir, workerId);
const threads = createDiskThreads({ crashAt: config.CRASH_AT });
lifecycle.onStop('disk threads', () => threads.close());
const disk = createDisk(threads);
const storage = createFsStorage({ dir: join(dataDir, 'files'), threads });
const privileges = findPrivileges(config.WINDLASS_HOST_UID_BASE);
if (privileges.uidBase === undefined)
  log.info({ reason: privileges.reason }, 'task hosts run as the same user as the worker');
else await openWayToScratch(dataDir, scratch);

const isolation = privileges.uidBase === undefined ? 'process' : 'user';

const pool = createHostPool({
  size: slots.process,
  dir: scratch.dir,
  disk,
  limits: {
    memoryMax: config.WINDLASS_HOST_MEMORY_MAX,
    fileBytesMax: config.WINDLASS_HOST_FILE_BYTES_MAX,
    jobsMax: config.WINDLASS_HOST_JOBS_MAX,
    recycleRss: config.WINDLASS_HOST_RECYCLE_RSS,
  },
  uidBase: privileges.uidBase,
  compileCache: config.NODE_COMPILE_CACHE,
  log,
});
lifecycle.onStop('task hosts', () => pool.close());

await registerWorker(
  db,
  {
    id: workerId,
    host: hostname(),
    pid: process.pid,
    version: readVersion(),
    slots: slots.perQueue,
    isolation,
  },
  config.WINDLASS_LEASE_MS,
);
const runs = createRuns();
const lease = createLeaseKeeper({
  db,
  workerId,
  leaseMs: config.WINDLASS_LEASE_MS,
  runs,
  // Another process takes over with a new id: nothing of this one can be trusted to be in step.
  onDead: () =>
    lifecycle.fail(new Error('The lease of this worker ran out.'), 'declared dead by another worker'),
  onQuiet: (isQuiet) => {
    log.info({ isQuiet }, isQuiet ? 'takes nothing new' : 'takes jobs again');
    // A worker that is stopping has paused them for good.
    if (lifecycle.stopping.aborted) return;
    for (const consumer of consumers) void (isQuiet ? consumer.pause() : consumer.resume());
  },
  log,
});
lifecycle.onStop('lease', async () => {
  await lease.stop();
  await removeWorker(db, workerId);
});
lease.start();

const feeder = createFeeder({ db, queues, deliveries, signals, bundleSize: config.BUNDLE_SIZE, log });
const reaper = createReaper({
  db,
  queues,
  lease,
  policyOf: (name) => tasks.get(name)?.definition,
  signals,
  onRevived: () => feeder.wake(),
  log,
});
const janitor = createJanitor({
  db,
  storage,
  disk,
  scratchRoot: scratch.root,
  idempotencyMs: config.WINDLASS_IDEMPOTENCY_MS,
  log,
});
const isBacklogFull = createBacklogGate({ db, backlogMax: config.WINDLASS_BACKLOG_MAX, log });
const scheduler = createScheduler({
  db,
  definitionOf: (name) => tasks.get(name)?.definition,
  tasks: [...tasks.keys()],
  jobRetentionMs: config.WINDLASS_JOB_RETENTION_MS,
  waitingPerTenantMax: config.WINDLASS_WAITING_PER_TENANT_MAX,
  isBacklogFull,
  onMade: () => feeder.wake(),
  log,
});
const batchKeeper = createBatchKeeper({ db, onStarted: () => feeder.wake(), log });
const itemKeeper = createItemKeeper({ db, signals, onResumed: () => feeder.wake(), log });
const releaser = createReleaser({ db, onReleased: () => feeder.wake(), log });
for (const [name, loop] of Object.entries({
  feeder,
  reaper,
  janitor,
  scheduler,
  releaser,
  batchKeeper,
  itemKeeper,
}))
  lifecycle.onStop(name, () => loop.stop());

const outputStore = createOutputStore({
  db,
  storage,
  disk,
  limits: {
    resultBytesMax: config.WINDLASS_RESULT_BYTES_MAX,
    outputFilesMax: config.WINDLASS_OUTPUT_FILES_MAX,
    outputFileBytesMax: config.WINDLASS_FILE_BYTES_MAX,
  },
});
const { SMTP_URL, SMTP_FROM, SMTP_FROM_DOMAINS, SMTP_REQUIRE_TLS } = config;
const settles = createSettleRuns(db, () => {
  feeder.wake();
  releaser.wake();
});
const runJob = createRunJob({
  claims: createClaimJobs(db, {
    id: workerId,
    tasks: [...tasks.keys()],
    tasksOnce: definitions.filter((task) => task.onCrash === 'fail').map((task) => task.name),
  }),
  settles,
  tasks,
  runs,
  prepareInHost: createPrepareInHost({ pool, storage, outputStore, disk, dir: scratch.runsDir }),
  executeInline: createExecuteInline({
    db,
    storage,
    outputStore,
    dir: join(scratch.dir, 'inline'),
    disk,
    settings: { SMTP_URL, SMTP_FROM, SMTP_FROM_DOMAINS, SMTP_REQUIRE_TLS },
    createBulkStep: createBulkSteps({
      db,
      storage,
      signals,
      rules: createTaskRules(tasks, { retentionMs: config.WINDLASS_JOB_RETENTION_MS }),
      isBacklogFull,
      tenantRoom: createTenantRoom({ db, waitingMax: config.WINDLASS_WAITING_PER_TENANT_MAX }),
      onQueued: () => feeder.wake(),
      log,
    }),
    createEachStep: createEachSteps({
      db,
      tasks,
      resultBytesMax: config.WINDLASS_RESULT_BYTES_MAX,
      retentionMs: config.WINDLASS_JOB_RETENTION_MS,
      isBacklogFull,
      onQueued: () => feeder.wake(),
    }),
  }),
  createReports: (job) => createReports({ db, job, logLinesMax: config.WINDLASS_LOG_LINES_MAX }),
  outputStore,
  signals,
  onFeedable: () => feeder.wake(),
  endingMax: Object.values(slots.perQueue).reduce(
    (sum, count) => sum + count + endingGroupsMax * endGroupMax,
    0,
  ),
  onBatchJobEnded: (batchId) => batchKeeper.note(batchId),
  onItemEnded: (eachId) => itemKeeper.note(eachId),
  log,
});

const admitted = createAdmitted();
const memory = createMemoryGate({
  reserveBytes: config.WINDLASS_MEMORY_RESERVE,
  availableBytes: readAvailableMemory,
  isBusy: admitted.isBusy,
  log,
});
const queuesOfHosts = new Set(
  definitions.filter((task) => task.isolation === 'process').map((task) => task.queue),
);
const queuesAhead = findQueuesAhead(definitions);
const consumers = queues.map((queue) =>
  createConsumer({
    queue,
    slots: slots.perQueue[queue] ?? 1,
    prefix: config.REDIS_PREFIX,
    connect: () => createConsumerConnection(config.REDIS_URL, log),
    deliveries,
    ...(queuesOfHosts.has(queue) && { admit: memory.enter, isCrowded: memory.isShort }),
    claimsAhead: queuesAhead.has(queue),
    work(delivery, onClaimed, slot, turn) {
      feeder.noteTaken(queue);
      return admitted.during(slot, () => runJob(delivery, onClaimed, slot, turn));
    },
    onStuck: () => lifecycle.fail(new Error('No deliveries are taken although some wait.'), 'stuck consumer'),
    log,
  }),
);
const watchdog = setInterval(() => {
  for (const consumer of consumers) void consumer.watch();
}, 2_000);
lifecycle.onStop('consumers', async () => {
  clearInterval(watchdog);
  // Take nothing more; let what runs finish until the deadline; put the rest back at once, without using an attempt.
  await Promise.all(consumers.map((consumer) => consumer.pause()));
  await waitUntilIdle(config.WINDLASS_GRACE_MS);
  await waitUntilIdle(5_000, () => {
    for (const run of runs.list()) run.stop('interrupted');
  });
  await settles.idle();
  await Promise.all(consumers.map((consumer) => consumer.close()));
});

// Without Redis, too, jobs become due, those of dead workers are moved on, and expired ones are deleted.
listenForSignal({
  redis: subscriber,
  prefix: config.REDIS_PREFIX,
  channel: 'cancel',
  // Only a hint: the renewal reads the row, and its answer stops the run.
  listener: (jobId) => {
    if (runs.find(jobId) !== undefined) lease.wake();
  },
  log,
});
for (const loop of [feeder, reaper, janitor, scheduler, releaser, batchKeeper, itemKeeper]) loop.start();
if (config.WINDLASS_HEALTH_PORT !== 0) {
  const health = await startHealthServer({
    port: config.WINDLASS_HEALTH_PORT,
    lease,
    leaseMs: config.WINDLASS_LEASE_MS,
  });
  lifecycle.onStop('health', () => health.close());
}
log.info(
  {
    slots: slots.perQueue,
    tasks: [...tasks.keys()],
    isolation,
  },
  'worker ready',
);
process.send?.({ ready: true });

/** Deliveries count as well as runs: one whose claim is under way becomes a run in a moment. */
async function waitUntilIdle(deadlineMs: number, meanwhile?: () => void): Promise<void> {
  const until = performance.now() + deadlineMs;
  while (
    (consumers.some((consumer) => !consumer.isIdle()) || runs.list().length > 0) &&
    performance.now() < until
  ) {
    meanwhile?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
