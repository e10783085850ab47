-- A result from which jobs take many parts is read once for its files, and parsed once for each of those jobs, and no longer for each part: a
-- statement that takes longer than it may is undone, and with it the end of the parent, again and again.
CREATE OR REPLACE FUNCTION resolve_input(child uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  whole jsonb;
  -- Of the parent that is in `read`.
  taken jsonb;
  read uuid;
  part jsonb;
  parts_bytes bigint := 0;
  ref record;
BEGIN
  SELECT input::jsonb INTO whole FROM jobs WHERE id = child;
  FOR ref IN
    SELECT r.at, r.path, r.if_missing, r.parent_id, p.state, p.purged_at, p.result
    FROM job_input_refs r LEFT JOIN jobs p ON p.id = r.parent_id WHERE r.child_id = child
    ORDER BY r.parent_id, r.position
  LOOP
    IF ref.state IS NULL OR ref.purged_at IS NOT NULL THEN
      PERFORM fail_blocked_job(child, 'input-missing', format('The result of the job %s, which the input needs, was deleted.', ref.parent_id));
      RETURN;
    END IF;
    IF ref.parent_id IS DISTINCT FROM read THEN
      taken := CASE WHEN ref.state = 'succeeded' THEN ref.result::jsonb END;
      read := ref.parent_id;
    END IF;
    part := taken #> ref.path;
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
CREATE OR REPLACE FUNCTION release_jobs(children uuid[], parents uuid[]) RETURNS void LANGUAGE plpgsql
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
  WITH pair AS MATERIALIZED (
    SELECT DISTINCT r.child_id, r.parent_id FROM job_input_refs r WHERE r.child_id = ANY (locked) AND r.parent_id = ANY (parents)
  ), named AS MATERIALIZED (
    SELECT p.id AS parent_id, n.id FROM jobs p CROSS JOIN LATERAL file_ids_in(p.result::jsonb) AS n(id)
    WHERE p.id = ANY (ARRAY(SELECT parent_id FROM pair)) AND p.state = 'succeeded'
  )
  INSERT INTO job_inputs (job_id, file_id, tenant_id)
  SELECT DISTINCT c.id, f.id, f.tenant_id
  FROM pair JOIN jobs c ON c.id = pair.child_id AND c.state = 'blocked'
  JOIN named ON named.parent_id = pair.parent_id
  JOIN files f ON f.id = named.id AND f.tenant_id = c.tenant_id AND f.state = 'ready'
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
