-- Schedules: jobs that are made by the clock. When the next one is due is decided here, never by Redis.

CREATE TABLE schedules (
  id            uuid PRIMARY KEY,
  tenant_id     text NOT NULL REFERENCES tenants,
  key           text NOT NULL CHECK (key ~ '^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$'),
  task          text NOT NULL,
  -- As they were sent: each job is made of them by the rules of its own day.
  input         json NOT NULL,
  options       jsonb NOT NULL,
  cron          text,
  timezone      text,
  every_ms      bigint CHECK (every_ms > 0),
  -- An interval is counted from here, so that lateness does not add up.
  anchor_at     timestamptz,
  misfire       text NOT NULL CHECK (misfire IN ('skip', 'run-once', 'run-all')),
  overlap       text NOT NULL CHECK (overlap IN ('allow', 'skip')),
  is_paused     boolean NOT NULL,
  -- Every tick up to here has been decided: made into a job, or left out. It only moves forward.
  decided_until timestamptz NOT NULL,
  -- When to look again: the first tick after decided_until, or later after an error. NULL: never.
  next_due_at   timestamptz,
  last_tick_at  timestamptz,
  last_outcome  text CHECK (last_outcome IN ('job', 'overlap', 'misfire')),
  -- Why no job could be made the last time.
  error         jsonb,
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  UNIQUE (tenant_id, key),
  UNIQUE (tenant_id, id),
  CONSTRAINT cron_or_interval CHECK (
    (cron IS NOT NULL AND timezone IS NOT NULL AND every_ms IS NULL AND anchor_at IS NULL) OR
    (cron IS NULL AND timezone IS NULL AND every_ms IS NOT NULL AND anchor_at IS NOT NULL)),
  CONSTRAINT paused_is_never_due CHECK (NOT is_paused OR next_due_at IS NULL),
  CONSTRAINT tick_has_outcome CHECK ((last_tick_at IS NULL) = (last_outcome IS NULL))
);
CREATE INDEX schedules_due ON schedules (next_due_at) WHERE next_due_at IS NOT NULL;

-- One job per tick, whatever number of schedulers run and whatever a clock does. Kept for a day.
CREATE TABLE schedule_ticks (
  schedule_id uuid NOT NULL REFERENCES schedules ON DELETE CASCADE,
  due_at      timestamptz NOT NULL,
  job_id      uuid NOT NULL,
  made_at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (schedule_id, due_at)
);
CREATE INDEX schedule_ticks_age ON schedule_ticks (made_at);

-- What schedules refer to: the foreign key keeps such a file from being deleted.
CREATE TABLE schedule_files (
  schedule_id uuid NOT NULL,
  file_id     uuid NOT NULL,
  tenant_id   text NOT NULL,
  PRIMARY KEY (schedule_id, file_id),
  FOREIGN KEY (tenant_id, schedule_id) REFERENCES schedules (tenant_id, id) ON DELETE CASCADE,
  FOREIGN KEY (tenant_id, file_id) REFERENCES files (tenant_id, id)
);
CREATE INDEX schedule_files_of_file ON schedule_files (tenant_id, file_id);

-- The schedule that made a job. By its key: the job outlives the schedule.
ALTER TABLE jobs ADD COLUMN schedule_key text;
-- The last job of a schedule.
CREATE INDEX jobs_of_schedule ON jobs (tenant_id, schedule_key, id) WHERE schedule_key IS NOT NULL;
-- Does a job of it still wait or run?
CREATE INDEX jobs_open_of_schedule ON jobs (tenant_id, schedule_key)
  WHERE schedule_key IS NOT NULL AND state NOT IN ('succeeded', 'failed', 'cancelled');
