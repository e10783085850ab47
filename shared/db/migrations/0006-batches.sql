-- Batches: jobs that were sent together, and the job that starts when all of them have ended.

CREATE TABLE batches (
  id              uuid PRIMARY KEY,
  tenant_id       text NOT NULL REFERENCES tenants,
  created_at      timestamptz NOT NULL DEFAULT now(),
  -- Jobs that were accepted with it; NULL for a stream, which may still grow.
  size            integer CHECK (size > 0),
  -- What was refused of a permissive batch: [{index, code, message, errors}]. The answer can be given again from it. json, not jsonb: what was
  -- refused may be text that jsonb cannot hold.
  refused         json NOT NULL DEFAULT '[]',
  -- This job is `blocked` until all jobs of the batch have ended.
  on_complete_job_id uuid,
  -- Its task declares `input.batch`, which is filled in when it starts.
  on_complete_fills boolean NOT NULL DEFAULT false,
  -- When the last job had ended and that job was let go; only for batches that have one.
  completed_at    timestamptz,
  UNIQUE (tenant_id, id)
);
-- What workers look through once a second: empty when nobody waits.
CREATE INDEX batches_waiting ON batches (id) WHERE on_complete_job_id IS NOT NULL AND completed_at IS NULL;

-- No foreign key: a job outlives nothing by it, and accepting jobs would pay for it. The janitor deletes a batch when its last
-- job is gone.
ALTER TABLE jobs ADD COLUMN batch_id uuid;
-- How far a batch is, and whether one of its jobs is not final; costs jobs without a batch nothing.
CREATE INDEX jobs_of_batch ON jobs (batch_id, state) WHERE batch_id IS NOT NULL;
