-- The record. Constraints mirror the invariants of ARCHITECTURE.md; a bug in our code should fail here, not
-- in a customer's data. Forward only: never edit a migration that was released.

CREATE TABLE tenants (
  id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO tenants (id) VALUES ('default');

CREATE TABLE api_keys (
  id           uuid PRIMARY KEY,
  tenant_id    text NOT NULL REFERENCES tenants,
  name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  -- First 8 and last 4 characters, to recognise a key by; the rest is only here as a SHA-256.
  prefix       text NOT NULL,
  last4        text NOT NULL,
  hash         bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
  scopes       text[] NOT NULL CHECK (scopes <@ '{submit,read,operate,admin}' AND cardinality(scopes) > 0),
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz,
  revoked_at   timestamptz,
  last_used_at timestamptz,
  UNIQUE (tenant_id, id)
);

-- What accept and the feeder must know of a queue; a row appears with the queue's first job.
CREATE TABLE queues (
  name      text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{0,62}$'),
  is_paused boolean NOT NULL DEFAULT false,
  -- How many deliveries may be in Redis: max(live slots, one second of measured drain), at most 1,000.
  window_size integer NOT NULL DEFAULT 16 CHECK (window_size BETWEEN 1 AND 1000)
);

CREATE TABLE workers (
  id          uuid PRIMARY KEY,
  host        text NOT NULL,
  pid         integer NOT NULL,
  version     text NOT NULL,
  slots       jsonb NOT NULL,
  -- How its task hosts are kept apart: `user` (a user id of their own each) or `process`.
  isolation   text NOT NULL CHECK (isolation IN ('user', 'process')),
  -- Claims in the last second, per queue: the measured drain from which the window follows.
  drain       jsonb NOT NULL DEFAULT '{}',
  memory_bytes bigint NOT NULL DEFAULT 0,
  started_at  timestamptz NOT NULL DEFAULT now(),
  renewed_at  timestamptz NOT NULL DEFAULT now(),
  -- The lease belongs to the worker, not to each job: one renewal a second, whatever it runs.
  lease_until timestamptz NOT NULL,
  -- Set by the reaper with the jobs' new states; from then on a renewal answers "you are dead".
  reaped_at   timestamptz
);
CREATE INDEX workers_alive ON workers (lease_until) WHERE reaped_at IS NULL;

CREATE TYPE job_state AS ENUM
  ('scheduled', 'blocked', 'queued', 'active', 'retrying', 'succeeded', 'failed', 'cancelled');

CREATE TABLE jobs (
  id             uuid PRIMARY KEY,
  tenant_id      text NOT NULL,
  task           text NOT NULL,
  queue          text NOT NULL,
  state          job_state NOT NULL,
  -- Grows with every claim and with everything that takes the job away from a run. All writes of a run name it.
  fence          bigint NOT NULL DEFAULT 0 CHECK (fence >= 0),
  priority       smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 9),
  run_at         timestamptz NOT NULL,
  -- run_at - priority × 60 s: order within a tenant, so that priority goes first and nothing starves.
  rank_at        timestamptz NOT NULL,
  -- A delivery with this fence was handed to Redis (or is about to be).
  dispatched_at  timestamptz,
  -- json, not jsonb: kept as it was written, in the order of its keys, and cheaper to store.
  input          json NOT NULL,
  options        jsonb NOT NULL DEFAULT '{}',
  tags           text[] NOT NULL DEFAULT '{}',
  result         json,
  error          jsonb,
  progress       jsonb,
  attempts_used  integer NOT NULL DEFAULT 0,
  attempts_max   integer NOT NULL CHECK (attempts_max >= 1),
  crashes        integer NOT NULL DEFAULT 0,
  worker_id      uuid,
  cancel_requested_at timestamptz,
  cancel_reason  text,
  traceparent    text,
  created_at     timestamptz NOT NULL DEFAULT now(),
  started_at     timestamptz,
  finished_at    timestamptz,
  expires_at     timestamptz,
  -- Input, result and files were deleted at expires_at; the row itself stays a while to say so.
  purged_at      timestamptz,
  retention_ms   bigint NOT NULL CHECK (retention_ms > 0),
  UNIQUE (tenant_id, id),
  CONSTRAINT final_has_finished CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
  CONSTRAINT active_has_worker CHECK ((state = 'active') = (worker_id IS NOT NULL)),
  CONSTRAINT only_queued_is_dispatched CHECK (dispatched_at IS NULL OR state = 'queued'),
  CONSTRAINT only_success_has_result CHECK (result IS NULL OR state = 'succeeded'),
  CONSTRAINT attempts_within_limit CHECK (attempts_used BETWEEN 0 AND attempts_max)
);
-- The feeder takes from here: tenants in turn, within a tenant by rank.
CREATE INDEX jobs_waiting ON jobs (queue, tenant_id, rank_at, id) WHERE state = 'queued' AND dispatched_at IS NULL;
-- The window: what Redis should hold; repair reads it whole.
CREATE INDEX jobs_dispatched ON jobs (queue, id) WHERE state = 'queued' AND dispatched_at IS NOT NULL;
-- Time: what becomes due.
CREATE INDEX jobs_due ON jobs (queue, run_at) WHERE state IN ('scheduled', 'retrying');
-- The reaper: what a dead worker was running.
CREATE INDEX jobs_active ON jobs (worker_id) WHERE state = 'active';
-- Retention.
CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE expires_at IS NOT NULL AND purged_at IS NULL;
CREATE INDEX jobs_purged ON jobs (purged_at) WHERE purged_at IS NOT NULL;

CREATE TABLE attempts (
  job_id      uuid NOT NULL,
  tenant_id   text NOT NULL,
  -- The fence of the run: two runs can never write the same attempt.
  fence       bigint NOT NULL,
  worker_id   uuid NOT NULL,
  started_at  timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  outcome     text NOT NULL CHECK (outcome IN ('succeeded', 'failed', 'snoozed', 'crashed', 'cancelled', 'interrupted')),
  error       jsonb,
  PRIMARY KEY (job_id, fence),
  FOREIGN KEY (tenant_id, job_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE
);

-- The outbox: what happened, for live events and webhooks. Read by the cursor (tx, id) and only below
-- pg_snapshot_xmin(pg_current_snapshot()), so that a transaction that commits late is never skipped.
CREATE TABLE events (
  tx        xid8 NOT NULL DEFAULT pg_current_xact_id(),
  id        bigint GENERATED ALWAYS AS IDENTITY,
  tenant_id text NOT NULL,
  job_id    uuid NOT NULL,
  type      text NOT NULL,
  data      jsonb,
  at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tx, id)
);
CREATE INDEX events_of_job ON events (job_id);

CREATE TABLE files (
  id            uuid PRIMARY KEY,
  tenant_id     text NOT NULL REFERENCES tenants,
  -- `pending`: a run is writing the bytes; not visible to anyone. Its row exists first, so no bytes are ever unknown.
  state         text NOT NULL CHECK (state IN ('pending', 'ready')),
  name          text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 255),
  media_type    text NOT NULL,
  detected_type text,
  size_bytes    bigint CHECK (size_bytes >= 0),
  sha256        bytea CHECK (octet_length(sha256) = 32),
  -- The job that produced it; NULL for an upload.
  job_id        uuid,
  created_at    timestamptz NOT NULL DEFAULT now(),
  expires_at    timestamptz,
  UNIQUE (tenant_id, id),
  FOREIGN KEY (tenant_id, job_id) REFERENCES jobs (tenant_id, id),
  CONSTRAINT ready_is_complete CHECK (state = 'pending' OR (size_bytes IS NOT NULL AND sha256 IS NOT NULL))
);
CREATE INDEX files_of_job ON files (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL;
-- What runs announced and have not committed; few at any moment.
CREATE INDEX files_pending ON files (job_id) WHERE state = 'pending';

-- What jobs that are not final refer to: the foreign key keeps such a file from being deleted.
CREATE TABLE job_inputs (
  job_id    uuid NOT NULL,
  file_id   uuid NOT NULL,
  tenant_id text NOT NULL,
  PRIMARY KEY (job_id, file_id),
  FOREIGN KEY (tenant_id, job_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE,
  FOREIGN KEY (tenant_id, file_id) REFERENCES files (tenant_id, id)
);
CREATE INDEX job_inputs_of_file ON job_inputs (tenant_id, file_id);

CREATE TABLE job_logs (
  job_id  uuid NOT NULL,
  fence   bigint NOT NULL,
  line    integer NOT NULL,
  tenant_id text NOT NULL,
  at      timestamptz NOT NULL,
  message text NOT NULL,
  PRIMARY KEY (job_id, fence, line),
  FOREIGN KEY (tenant_id, job_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE
);

-- Inserted in the transaction of the thing it made, so that both exist or neither.
CREATE TABLE idempotency_keys (
  tenant_id   text NOT NULL REFERENCES tenants,
  key         text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
  fingerprint bytea NOT NULL,
  resource    text NOT NULL CHECK (resource IN ('job', 'file')),
  resource_id uuid NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- Effects outside (an e-mail handed over): begun and finished, around the doing.
CREATE TABLE effects (
  job_id      uuid NOT NULL,
  key         text NOT NULL,
  tenant_id   text NOT NULL,
  begun_at    timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  value       jsonb,
  PRIMARY KEY (job_id, key),
  FOREIGN KEY (tenant_id, job_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE
);

-- What a task remembers within a tenant, for example addresses that refuse mail.
CREATE TABLE task_memory (
  tenant_id  text NOT NULL REFERENCES tenants,
  task       text NOT NULL,
  key        text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 512),
  value      jsonb NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, task, key)
);
