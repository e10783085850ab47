/** Announcing: the `pending` rows of output files, before their bytes are stored. A settled run makes them visible. */
import { plainArray, textArray } from './array-literal.ts';
import { createGroupCommit, type GroupCommit } from './group-commit.ts';
import { unsynced, type Db } from './pool.ts';
import type { OwnedRun } from './workers.ts';

export interface Announcement {
  readonly run: OwnedRun;
  readonly files: readonly PendingFile[];
}

export interface PendingFile {
  readonly id: string;
  readonly name: string;
  readonly mediaType: string;
}

/** Resolves to false when the run does not own its job: nothing may be stored then. */
export type AnnounceFiles = GroupCommit<Announcement, boolean>;

export function createAnnounceFiles(db: Db): AnnounceFiles {
  return createGroupCommit<Announcement, boolean>({
    flush: (announcements) => announce(db, announcements),
    // Whoever tries again takes back what this try may have written (deletePendingFiles).
    recover: async (_announcement, err) => {
      throw err;
    },
  });
}

// Where Postgres forgets it in a crash, the bytes have no row, and are swept like all such, unless their run goes on: its commit writes the
// row anew (settle-runs.ts).
const announceSql = `
WITH ${unsynced}
INSERT INTO files (id, tenant_id, state, name, media_type, job_id)
SELECT f.id, j.tenant_id, 'pending', f.name, f.media_type, j.id
FROM unsynced CROSS JOIN unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::text[], $6::text[])
  AS f(job_id, fence, worker_id, id, name, media_type)
JOIN jobs j ON j.id = f.job_id
WHERE j.fence = f.fence AND j.worker_id = f.worker_id AND (j.state = 'active') IS TRUE
ORDER BY f.job_id
RETURNING id`;

async function announce(db: Db, announcements: readonly Announcement[]): Promise<boolean[]> {
  // In the order of the jobs, as a bulk cancel locks them.
  const rows = announcements
    .toSorted((a, b) => (a.run.jobId < b.run.jobId ? -1 : 1))
    .flatMap(({ run, files }) => files.map((file) => ({ ...run, ...file })));
  const { rows: written } = await db.query<{ id: string }>({
    name: 'announce-files',
    text: announceSql,
    values: [
      plainArray(rows.map((row) => row.jobId)),
      plainArray(rows.map((row) => row.fence)),
      plainArray(rows.map((row) => row.workerId)),
      plainArray(rows.map((row) => row.id)),
      textArray(rows.map((row) => row.name)),
      textArray(rows.map((row) => row.mediaType)),
    ],
  });
  const ids = new Set(written.map((row) => row.id));
  return announcements.map(({ files }) => files.every((file) => ids.has(file.id)));
}
