-- Moving on the jobs that wait reads the results that they take from, once for each of them. The transaction that ends a job whose large
-- result a thousand others wait for took longer than a statement may, and was undone, again and again. Now what is read has
-- a bound for each transaction, besides the number of jobs; the rest is left for the next call, as it always was.
CREATE OR REPLACE FUNCTION settle_dependants() RETURNS integer LANGUAGE plpgsql
  -- Planned as in a worker, whoever asks (createHotDb): a plan for an empty table would read a full one from end to end.
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
  -- Of results, each counted as often as it is read. The first one is read in any case.
  bytes_max constant bigint := 16777216;
  ended uuid[];
  children uuid[];
  total integer := 0;
  told integer := 0;
  bytes_read bigint := 0;
  bytes_now bigint;
BEGIN
  -- Jobs that it ends call it again, and are told of by the loop below.
  IF current_setting('windlass.is_settling', true) = 'on' THEN RETURN 0; END IF;
  PERFORM set_config('windlass.is_settling', 'on', true);
  FOR level IN 1..100 LOOP
    SELECT array_agg(id) INTO ended FROM (
      SELECT id FROM jobs WHERE has_dependants AND state IN ('succeeded', 'failed', 'cancelled')
      ORDER BY id LIMIT 500 FOR NO KEY UPDATE SKIP LOCKED) AS e;
    EXIT WHEN ended IS NULL;
    WITH parent AS MATERIALIZED (
      SELECT id, coalesce(octet_length(result::text), 0) AS bytes FROM jobs WHERE id = ANY (ended)
    ), edge AS MATERIALIZED (
      SELECT parent_id, child_id FROM job_dependencies WHERE parent_id = ANY (ended) AND parent_state IS NULL LIMIT 5000
    ), read AS (
      SELECT edge.child_id, sum(CASE WHEN EXISTS (
          SELECT FROM job_input_refs r WHERE r.child_id = edge.child_id AND r.parent_id = edge.parent_id) THEN parent.bytes ELSE 0 END)::bigint AS bytes
      FROM edge JOIN parent ON parent.id = edge.parent_id GROUP BY edge.child_id
    ), counted AS (
      SELECT read.child_id, read.bytes, sum(read.bytes) OVER (ORDER BY read.child_id) AS up_to FROM read
    )
    SELECT array_agg(child_id), coalesce(sum(counted.bytes), 0) INTO children, bytes_now FROM counted
    WHERE up_to - counted.bytes = 0 OR bytes_read + up_to <= bytes_max;
    -- Locked before the marks are made: of two parents that end at the same time the later one sees the mark of the earlier.
    PERFORM FROM jobs WHERE id = ANY (children) AND state = 'blocked' ORDER BY id FOR NO KEY UPDATE;
    UPDATE job_dependencies d SET parent_state = p.state FROM jobs p
    WHERE d.parent_id = ANY (ended) AND d.child_id = ANY (children) AND d.parent_state IS NULL AND p.id = d.parent_id;
    PERFORM release_jobs(children, ended);
    UPDATE jobs j SET has_dependants = false WHERE j.id = ANY (ended)
      AND NOT EXISTS (SELECT FROM job_dependencies d WHERE d.parent_id = j.id AND d.parent_state IS NULL);
    total := total + cardinality(ended);
    told := told + coalesce(cardinality(children), 0);
    bytes_read := bytes_read + bytes_now;
    EXIT WHEN told >= 5000 OR bytes_read >= bytes_max / 2;
  END LOOP;
  PERFORM set_config('windlass.is_settling', 'off', true);
  RETURN total;
END $$;
