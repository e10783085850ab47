-- Running the service: queues that are paused, workers that take nothing new, jobs that are worthless after a while.

ALTER TABLE queues
  ADD COLUMN paused_at timestamptz,
  ADD COLUMN pause_reason text CHECK (length(pause_reason) <= 1000);

-- Since when the worker was told to take nothing new; the answer to its next renewal tells it.
ALTER TABLE workers ADD COLUMN quiet_at timestamptz;

-- No attempt begins after this; what still waits then fails with the code `expired`.
ALTER TABLE jobs ADD COLUMN start_before timestamptz;
CREATE INDEX jobs_start_before ON jobs (queue, start_before)
  WHERE start_before IS NOT NULL AND state IN ('scheduled', 'blocked', 'queued', 'retrying');

-- Counted and drained per queue.
CREATE INDEX jobs_blocked ON jobs (queue, id) WHERE state = 'blocked';
-- Dead letters.
CREATE INDEX jobs_failed ON jobs (queue, id) WHERE state = 'failed' AND purged_at IS NULL;
