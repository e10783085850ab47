-- Limits between jobs: keys under which only one job is made, keys of which only a few run at once, rates.

-- Which job holds a unique key. Whether it still does is never stored: the row of that job and the clock tell, so nothing has to be
-- released by claims, ends, reapers and cancels, and nothing can be forgotten. Taking a key locks its row.
CREATE TABLE unique_keys (
  tenant_id  text NOT NULL,
  task       text NOT NULL,
  key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  job_id     uuid NOT NULL,
  -- What ends it: the start of the job, its end, or only `held_until`.
  until      text NOT NULL CHECK (until IN ('started', 'finished', 'expired')),
  held_until timestamptz,
  PRIMARY KEY (tenant_id, task, key),
  -- The key is taken before its job is inserted. When the job is deleted its key goes with it.
  FOREIGN KEY (tenant_id, job_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT something_ends_it CHECK (until <> 'expired' OR held_until IS NOT NULL)
);
CREATE INDEX unique_keys_of_job ON unique_keys (job_id);

-- The key belongs to a request that made no job, because another one held its unique key.
ALTER TABLE idempotency_keys ADD COLUMN is_duplicate boolean NOT NULL DEFAULT false;

-- At most `concurrency_max` jobs of one key (in tenant and queue) are dispatched or active. A job whose key has no room is *parked*:
-- its rank is infinity, so that nobody who looks for the next jobs comes across it, and the rank that it had is kept beside it.
ALTER TABLE jobs
  ADD COLUMN concurrency_key text,
  ADD COLUMN concurrency_max integer,
  ADD COLUMN parked_rank_at timestamptz,
  ADD CONSTRAINT key_has_limit CHECK ((concurrency_key IS NULL) = (concurrency_max IS NULL) AND concurrency_max >= 1);
-- None of these holds a job without a key.
CREATE INDEX jobs_parked ON jobs (queue, tenant_id, concurrency_key, parked_rank_at, id)
  WHERE state = 'queued' AND rank_at = 'infinity';
CREATE INDEX jobs_ready_with_key ON jobs (queue, tenant_id, concurrency_key)
  WHERE concurrency_key IS NOT NULL AND state = 'queued' AND dispatched_at IS NULL AND rank_at < 'infinity';
CREATE INDEX jobs_busy_with_key ON jobs (queue, tenant_id, concurrency_key)
  WHERE concurrency_key IS NOT NULL AND (state = 'active' OR dispatched_at IS NOT NULL);

-- At most so many starts within any so many milliseconds: of the queue, and of each of its keys. Written at the start of every process.
ALTER TABLE queues
  -- The tenant that had the last turn, when there was not room for all.
  ADD COLUMN turn_after text,
  -- Tenant and key after which the next round looks for keys that have room; NULL: from the first.
  ADD COLUMN parked_after text[],
  ADD COLUMN rate_max integer CHECK (rate_max >= 1),
  ADD COLUMN rate_per_ms bigint CHECK (rate_per_ms >= 1),
  ADD COLUMN key_rate_max integer CHECK (key_rate_max >= 1),
  ADD COLUMN key_rate_per_ms bigint CHECK (key_rate_per_ms >= 1),
  ADD CONSTRAINT rate_is_whole CHECK ((rate_max IS NULL) = (rate_per_ms IS NULL)),
  ADD CONSTRAINT key_rate_is_whole CHECK ((key_rate_max IS NULL) = (key_rate_per_ms IS NULL));

-- Each delivery of such a queue, until its start is longer ago than the window. Only feeders write it; never more rows than the limit allows.
CREATE TABLE rate_starts (
  job_id     uuid NOT NULL,
  -- Of the delivery; that of the run is one more.
  fence      bigint NOT NULL,
  queue      text NOT NULL,
  tenant_id  text NOT NULL,
  concurrency_key text,
  -- NULL while it is not known to have been claimed.
  started_at timestamptz,
  PRIMARY KEY (job_id, fence)
);
CREATE INDEX rate_starts_of_queue ON rate_starts (queue, started_at);
CREATE INDEX rate_starts_of_key ON rate_starts (queue, tenant_id, concurrency_key, started_at) WHERE concurrency_key IS NOT NULL;

-- Counting what waits of one tenant, beside jobs_waiting.
CREATE INDEX jobs_later_of_tenant ON jobs (tenant_id, id) WHERE state IN ('scheduled', 'blocked', 'retrying');
