import type { Config } from '#shared/config.ts';
import type { AcceptJobs } from '#shared/db/accept-jobs.ts';
import type { FindReplay } from '#shared/db/find-replay.ts';
import type { Db } from '#shared/db/pool.ts';
import type { Logger } from '#shared/log.ts';
import type { Dispatcher } from '#shared/queue/dispatcher.ts';
import type { SignalPublisher } from '#shared/queue/signals.ts';
import type { Storage } from '#shared/storage/storage.ts';
import type { Backlog } from './http/backlog.ts';
import type { TenantQuotas } from './http/tenant-quotas.ts';
import type { RateLimiter } from './http/rate-limit.ts';
import type { Uploads } from './http/upload.ts';
import type { ReadJson } from './http/read-json.ts';
import type { Authenticate } from './http/authenticate.ts';
import type { JobWaiter } from './job-waiter.ts';
import type { SearchTurns } from './search-turns.ts';
import type { ApiTask } from './task-catalog.ts';

/** Everything that routes work with; made in main.ts, or by a test. */
export interface ApiDeps {
  readonly config: Config;
  readonly log: Logger;
  readonly db: Db;
  /** For the readiness check alone: that all other connections are busy does not mean that Postgres is away. */
  readonly checkDb: Db;
  readonly storage: Storage;
  readonly tasks: ReadonlyMap<string, ApiTask>;
  readonly accepts: AcceptJobs;
  readonly replays: FindReplay;
  readonly dispatcher: Dispatcher;
  readonly signals: SignalPublisher;
  readonly waiter: JobWaiter;
  readonly searchTurns: SearchTurns;
  readonly readJson: ReadJson;
  readonly readBatch: ReadJson;
  readonly authenticate: Authenticate;
  readonly rateLimiter: RateLimiter;
  readonly uploads: Uploads;
  readonly backlog: Backlog;
  readonly quotas: TenantQuotas;
  /** "ok", or what an operator should know about Redis. Only reported, never needed. */
  readonly redisState: () => string;
  /** True from the moment the process was asked to stop. */
  readonly isStopping: () => boolean;
}
