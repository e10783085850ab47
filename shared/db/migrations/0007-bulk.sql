-- How far a bulk action is. Moved on in the transaction of what was done, so that a run that follows one that died goes on where
-- that one was, and does nothing twice.
CREATE TABLE bulk_runs (
  job_id    uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  -- Jobs with smaller ids are still to be looked at; NULL: all of them.
  position  uuid,
  is_done   boolean NOT NULL DEFAULT false,
  matched   bigint NOT NULL DEFAULT 0,
  done      bigint NOT NULL DEFAULT 0,
  skipped   bigint NOT NULL DEFAULT 0,
  failed    bigint NOT NULL DEFAULT 0,
  -- The first of them: [{jobId, code, message}].
  errors    jsonb NOT NULL DEFAULT '[]',
  FOREIGN KEY (tenant_id, job_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE
);
