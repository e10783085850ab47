-- Jobs that wait for jobs. Whatever statement ends a job (a worker, the reaper, a cancel), the trigger below moves on those that
-- wait for it, in the same transaction. Jobs that nobody waits for pay for one look at a flag.

-- Set with the first job that waits for this one; taken back when all that waited have been told of its end.
ALTER TABLE jobs ADD COLUMN has_dependants boolean NOT NULL DEFAULT false;
ALTER TABLE jobs ADD COLUMN workflow_id uuid;
ALTER TABLE jobs ADD COLUMN workflow_step text;
CREATE INDEX jobs_of_workflow ON jobs (workflow_id) WHERE workflow_id IS NOT NULL;
CREATE INDEX jobs_waiting_for_jobs ON jobs (id) WHERE state = 'blocked';
-- Ended, and somebody may still wait: rows of transactions under way, and what was too much for one of them.
CREATE INDEX jobs_ended_with_dependants ON jobs (id) WHERE has_dependants AND state IN ('succeeded', 'failed', 'cancelled');

CREATE TABLE job_dependencies (
  child_id     uuid NOT NULL,
  parent_id    uuid NOT NULL,
  tenant_id    text NOT NULL,
  -- `success`: the child is cancelled when the parent ends otherwise. `end`: it runs whatever became of the parent.
  on_end       text NOT NULL CHECK (on_end IN ('success', 'end')),
  -- How the parent ended; NULL while the child waits for it.
  parent_state job_state CHECK (parent_state IN ('succeeded', 'failed', 'cancelled')),
  PRIMARY KEY (child_id, parent_id),
  CONSTRAINT job_dependencies_child FOREIGN KEY (tenant_id, child_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE,
  CONSTRAINT job_dependencies_parent FOREIGN KEY (tenant_id, parent_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE,
  CHECK (child_id <> parent_id)
);
CREATE INDEX job_dependencies_of_parent ON job_dependencies (parent_id, parent_state);
CREATE INDEX job_dependencies_waiting ON job_dependencies (child_id) WHERE parent_state IS NULL;

-- Where the input of a job that waits takes something from the result of another one. Gone when the input is whole.
CREATE TABLE job_input_refs (
  child_id   uuid NOT NULL,
  parent_id  uuid NOT NULL,
  position   integer NOT NULL,
  tenant_id  text NOT NULL,
  -- Path in the input, and in the result of the parent.
  at         text[] NOT NULL,
  path       text[] NOT NULL,
  if_missing text NOT NULL CHECK (if_missing IN ('null', 'omit')),
  PRIMARY KEY (child_id, parent_id, position),
  FOREIGN KEY (tenant_id, child_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE
);

CREATE TABLE workflows (
  id           uuid PRIMARY KEY,
  tenant_id    text NOT NULL REFERENCES tenants,
  created_at   timestamptz NOT NULL DEFAULT now(),
  traceparent  text,
  -- When to look whether all of its jobs have been deleted.
  prune_at     timestamptz NOT NULL DEFAULT now() + interval '1 day',
  UNIQUE (tenant_id, id)
);
CREATE INDEX workflows_prune ON workflows (prune_at);

CREATE TABLE workflow_steps (
  workflow_id uuid NOT NULL,
  name        text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$'),
  tenant_id   text NOT NULL,
  -- Every step comes after those that it waits for.
  position    integer NOT NULL,
  is_optional boolean NOT NULL,
  -- Names of the steps that it waits for, with those that its input names.
  after       text[] NOT NULL,
  -- As they were sent: a retry makes a new job of them.
  task        text NOT NULL,
  input       json NOT NULL,
  options     jsonb NOT NULL,
  -- The latest job of the step. No foreign key: the job may expire first.
  job_id      uuid NOT NULL,
  PRIMARY KEY (workflow_id, name),
  FOREIGN KEY (tenant_id, workflow_id) REFERENCES workflows (tenant_id, id) ON DELETE CASCADE
);

ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_resource_check;
ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_keys_resource_check CHECK (resource ~ '^[a-z]{1,32}$');

-- Everything in a document that could be the id of a file. What is none is found by the join with files.
CREATE FUNCTION file_ids_in(doc jsonb) RETURNS SETOF uuid LANGUAGE sql IMMUTABLE AS $$
  SELECT DISTINCT (v #>> '{}')::uuid FROM jsonb_path_query(doc, 'strict $.** ? (@.type() == "string")
    ? (@ like_regex "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")') AS v
$$;

-- Its references stay: should it be retried, they are looked at again.
CREATE FUNCTION fail_blocked_job(child uuid, code text, message text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  WITH ended AS (
    UPDATE jobs SET state = 'failed', fence = fence + 1, finished_at = now(), expires_at = now() + retention_ms * interval '1 ms',
      error = jsonb_build_object('code', code, 'message', message, 'retryable', false)
    WHERE id = child AND state = 'blocked' RETURNING id, tenant_id, error
  ), released AS (
    DELETE FROM job_inputs i USING ended WHERE i.job_id = ended.id
  )
  INSERT INTO events (tenant_id, job_id, type, data)
  SELECT tenant_id, id, 'job.failed', jsonb_build_object('error', error) FROM ended;
END $$;

-- Puts what the input takes from results in its place, and holds the files that it names. Whatever the results are, this
-- may not fail: it would undo the end of the parent, again and again.
CREATE FUNCTION resolve_input(child uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  whole jsonb;
  part jsonb;
  parts_bytes bigint := 0;
  ref record;
BEGIN
  SELECT input::jsonb INTO whole FROM jobs WHERE id = child;
  FOR ref IN
    SELECT r.at, r.path, r.if_missing, r.parent_id, p.state, p.purged_at, p.result
    FROM job_input_refs r LEFT JOIN jobs p ON p.id = r.parent_id WHERE r.child_id = child
  LOOP
    IF ref.state IS NULL OR ref.purged_at IS NOT NULL THEN
      PERFORM fail_blocked_job(child, 'input-missing', format('The result of the job %s, which the input needs, was deleted.', ref.parent_id));
      RETURN;
    END IF;
    part := CASE WHEN ref.state = 'succeeded' THEN ref.result::jsonb #> ref.path END;
    IF (part IS NULL OR part = 'null') AND ref.if_missing = 'omit' THEN
      whole := whole #- ref.at;
      CONTINUE;
    END IF;
    part := coalesce(part, 'null');
    parts_bytes := parts_bytes + octet_length(part::text);
    -- workflowInputBytesMax in shared/domain/workflow.ts.
    IF parts_bytes > 1048576 THEN
      PERFORM fail_blocked_job(child, 'task-input', 'What the input takes from other results is larger than 1048576 bytes together.');
      RETURN;
    END IF;
    whole := CASE WHEN cardinality(ref.at) = 0 THEN part ELSE jsonb_set(whole, ref.at, part) END;
  END LOOP;
  UPDATE jobs SET input = whole::json WHERE id = child AND state = 'blocked';
  DELETE FROM job_inputs WHERE job_id = child AND NOT (file_id = ANY (ARRAY(SELECT file_ids_in(whole))));
  INSERT INTO job_inputs (job_id, file_id, tenant_id)
  SELECT child, f.id, f.tenant_id FROM file_ids_in(whole) AS named(id)
  JOIN files f ON f.id = named.id AND f.state = 'ready' AND f.tenant_id = (SELECT tenant_id FROM jobs WHERE id = child)
  ON CONFLICT DO NOTHING;
  DELETE FROM job_input_refs WHERE child_id = child;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
  PERFORM fail_blocked_job(child, 'task-input', format('The input could not be put together of the results: %s.', SQLERRM));
END $$;

-- Moves on those of `children` whose waiting is over. `parents` have ended just now.
CREATE FUNCTION release_jobs(children uuid[], parents uuid[]) RETURNS void LANGUAGE plpgsql
  -- Planned as in a worker, whoever asks (createHotDb): a plan for an empty table would read a full one from end to end.
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
  locked uuid[];
  ready uuid[];
  child uuid;
BEGIN
  SELECT array_agg(id ORDER BY id) INTO locked FROM (
    SELECT id FROM jobs WHERE id = ANY (children) AND state = 'blocked' ORDER BY id FOR NO KEY UPDATE) AS l;
  IF locked IS NULL THEN RETURN; END IF;

  -- A parent that had to succeed did not.
  WITH cause AS (
    SELECT DISTINCT ON (d.child_id) d.child_id, d.parent_id, d.parent_state, p.workflow_step
    FROM job_dependencies d JOIN jobs p ON p.id = d.parent_id
    WHERE d.child_id = ANY (locked) AND d.on_end = 'success' AND d.parent_state IN ('failed', 'cancelled')
    ORDER BY d.child_id, d.parent_id
  ), ended AS (
    UPDATE jobs j SET state = 'cancelled', fence = j.fence + 1, finished_at = now(), expires_at = now() + j.retention_ms * interval '1 ms',
      error = jsonb_build_object('code', 'parent-failed', 'retryable', false, 'message',
        CASE WHEN cause.workflow_step IS NULL THEN format('It waited for the job %s, which %s.', cause.parent_id,
            CASE cause.parent_state WHEN 'failed' THEN 'failed' ELSE 'was cancelled' END)
          ELSE format('It waited for the step "%s" (job %s), which %s.', cause.workflow_step, cause.parent_id,
            CASE cause.parent_state WHEN 'failed' THEN 'failed' ELSE 'was cancelled' END) END)
    FROM cause WHERE j.id = cause.child_id AND j.state = 'blocked'
    RETURNING j.id, j.tenant_id, j.error
  ), released AS (
    DELETE FROM job_inputs i USING ended WHERE i.job_id = ended.id
  ), ref AS (
    DELETE FROM job_input_refs r USING ended WHERE r.child_id = ended.id
  )
  INSERT INTO events (tenant_id, job_id, type, data)
  SELECT tenant_id, id, 'job.cancelled', jsonb_build_object('error', error) FROM ended;

  -- While it waits for others, files of the results that it will take are neither deleted nor do they expire.
  INSERT INTO job_inputs (job_id, file_id, tenant_id)
  SELECT DISTINCT c.id, f.id, f.tenant_id
  FROM job_input_refs r JOIN jobs c ON c.id = r.child_id AND c.state = 'blocked'
  JOIN jobs p ON p.id = r.parent_id AND p.state = 'succeeded'
  CROSS JOIN LATERAL file_ids_in(p.result::jsonb) AS named(id)
  JOIN files f ON f.id = named.id AND f.tenant_id = c.tenant_id AND f.state = 'ready'
  WHERE r.child_id = ANY (locked) AND r.parent_id = ANY (parents)
  ON CONFLICT DO NOTHING;

  SELECT array_agg(id ORDER BY id) INTO ready FROM jobs c WHERE c.id = ANY (locked) AND c.state = 'blocked'
    AND NOT EXISTS (SELECT FROM job_dependencies d WHERE d.child_id = c.id AND d.parent_state IS NULL);
  IF ready IS NULL THEN RETURN; END IF;
  FOR child IN SELECT DISTINCT r.child_id FROM job_input_refs r WHERE r.child_id = ANY (ready) LOOP
    PERFORM resolve_input(child);
  END LOOP;

  -- A delay counts from here on; a time stays what it is. By the clock, and not now(): a job that was accepted while this
  -- transaction was under way is due, although its run_at lies after the beginning of the transaction.
  WITH moved AS (
    UPDATE jobs j SET state = CASE WHEN due.at > clock_timestamp() THEN 'scheduled'::job_state ELSE 'queued' END,
      run_at = due.at, rank_at = due.at - j.priority * interval '60 s'
    FROM jobs old CROSS JOIN LATERAL (SELECT CASE WHEN old.options ? 'delayMs'
      THEN now() + (old.options->>'delayMs')::bigint * interval '1 ms' ELSE greatest(old.run_at, now()) END) AS due(at)
    WHERE old.id = ANY (ready) AND j.id = old.id AND j.state = 'blocked'
    RETURNING j.id, j.tenant_id, j.state
  )
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.' || state FROM moved;
END $$;

-- Tells jobs that wait of the ends of those that they wait for: of this transaction, and what was left over by others.
-- Cancelled children have children: level by level, and what is too much for one transaction is left for the next call.
-- Returns how many ended jobs it looked at.
CREATE FUNCTION settle_dependants() RETURNS integer LANGUAGE plpgsql
  -- Planned as in a worker, whoever asks (createHotDb): a plan for an empty table would read a full one from end to end.
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
  ended uuid[];
  children uuid[];
  total integer := 0;
  told integer := 0;
BEGIN
  -- Jobs that it ends call it again, and are told of by the loop below.
  IF current_setting('windlass.is_settling', true) = 'on' THEN RETURN 0; END IF;
  PERFORM set_config('windlass.is_settling', 'on', true);
  FOR level IN 1..100 LOOP
    SELECT array_agg(id) INTO ended FROM (
      SELECT id FROM jobs WHERE has_dependants AND state IN ('succeeded', 'failed', 'cancelled')
      ORDER BY id LIMIT 500 FOR NO KEY UPDATE SKIP LOCKED) AS e;
    EXIT WHEN ended IS NULL;
    SELECT array_agg(DISTINCT child_id) INTO children FROM (
      SELECT child_id FROM job_dependencies WHERE parent_id = ANY (ended) AND parent_state IS NULL LIMIT 5000) AS c;
    -- Locked before the marks are made: of two parents that end at the same time the later one sees the mark of the earlier.
    PERFORM FROM jobs WHERE id = ANY (children) AND state = 'blocked' ORDER BY id FOR NO KEY UPDATE;
    UPDATE job_dependencies d SET parent_state = p.state FROM jobs p
    WHERE d.parent_id = ANY (ended) AND d.child_id = ANY (children) AND d.parent_state IS NULL AND p.id = d.parent_id;
    PERFORM release_jobs(children, ended);
    UPDATE jobs j SET has_dependants = false WHERE j.id = ANY (ended)
      AND NOT EXISTS (SELECT FROM job_dependencies d WHERE d.parent_id = j.id AND d.parent_state IS NULL);
    total := total + cardinality(ended);
    told := told + coalesce(cardinality(children), 0);
    EXIT WHEN told >= 5000;
  END LOOP;
  PERFORM set_config('windlass.is_settling', 'off', true);
  RETURN total;
END $$;

CREATE FUNCTION on_end_with_dependants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- The first row of a statement tells the children of all of them.
  IF (SELECT has_dependants FROM jobs WHERE id = NEW.id) THEN PERFORM settle_dependants(); END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER jobs_end_with_dependants AFTER UPDATE OF finished_at ON jobs FOR EACH ROW
  WHEN (NEW.has_dependants AND OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL)
  EXECUTE FUNCTION on_end_with_dependants();
