-- Steps of workflows that do something to every item of a list (`forEach`). The job of such a step makes a job for each item,
-- waits (`blocked`) until all of them have ended, and then collects their results.

-- The step's job that made this one, and the item's place in the list.
ALTER TABLE jobs ADD COLUMN each_id uuid;
ALTER TABLE jobs ADD COLUMN each_index integer;
-- Whether any item has not ended, which is asked again and again, is one look here.
CREATE INDEX jobs_of_each ON jobs (each_id, state) WHERE each_id IS NOT NULL;

-- How far a step has come with its list. Moved on in the transaction that makes the jobs, so that a run that follows one that died goes
-- on where that one was.
CREATE TABLE each_runs (
  job_id     uuid PRIMARY KEY,
  tenant_id  text NOT NULL,
  -- Items before this one have their jobs.
  next_index integer NOT NULL DEFAULT 0,
  -- Known when the list has been looked at.
  total      integer CHECK (total >= 0),
  -- The step has ended, and so have its items: nobody needs to look at it again.
  is_over    boolean NOT NULL DEFAULT false,
  CONSTRAINT not_beyond_its_end CHECK (next_index <= total OR next_index = 0),
  FOREIGN KEY (tenant_id, job_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE
);
-- What workers look through once a second.
CREATE INDEX each_runs_open ON each_runs (job_id) WHERE NOT is_over;

-- Which job belongs to which item. After a retry of the workflow, jobs that succeeded belong to the new job of the step as well.
CREATE TABLE each_items (
  each_id   uuid NOT NULL,
  index     integer NOT NULL CHECK (index >= 0),
  tenant_id text NOT NULL,
  -- No foreign key: the step knows what to say when somebody has deleted it.
  job_id    uuid NOT NULL,
  PRIMARY KEY (each_id, index),
  FOREIGN KEY (tenant_id, each_id) REFERENCES jobs (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX each_items_of_job ON each_items (job_id);

-- The list and what else was said of it, as it was sent: {items, limit, optionalItems}.
ALTER TABLE workflow_steps ADD COLUMN for_each json;
