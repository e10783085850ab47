import type { Db } from '#shared/db/pool.ts';
import type { FinalJob } from './job-kinds.ts';
import { mailSubject } from './job-kinds.ts';
import type { Receivers } from './receivers.ts';
import { requestOf } from './tags.ts';

/** Everything that the record holds of the jobs, with what the receivers counted for each. */
export async function readFinalJobs(db: Db, receivers: Receivers): Promise<FinalJob[]> {
  const { rows } = await db.query<Omit<FinalJob, 'posts' | 'mails' | 'messageIds'>>(`
    SELECT j.id, j.tenant_id AS tenant, j.tags, j.task, j.state, j.result, j.error, j.options->'uniqueKey'->>'key' AS "uniqueKey", j.created_at AS "createdAt", j.attempts_used AS "attemptsUsed",
      j.attempts_max AS "attemptsMax", j.crashes, j.finished_at AS "finishedAt",
      (SELECT i.index FROM each_items i WHERE i.job_id = j.id) AS item,
      (SELECT coalesce(array_agg(a.outcome ORDER BY a.fence), '{}') FROM attempts a WHERE a.job_id = j.id) AS outcomes,
      (SELECT extract(epoch FROM min(a.started_at) - j.created_at) * 1000 FROM attempts a WHERE a.job_id = j.id)::float8 AS "firstRunAfterMs",
      (SELECT coalesce(json_agg(json_build_object('id', f.id, 'sha256', encode(f.sha256, 'hex')) ORDER BY f.id), '[]')
       FROM files f WHERE f.job_id = j.id AND f.state = 'ready') AS outputs,
      (SELECT coalesce(json_agg(json_build_object('key', e.key, 'isFinished', e.finished_at IS NOT NULL)), '[]')
       FROM effects e WHERE e.job_id = j.id) AS effects
    FROM jobs j ORDER BY j.id`);
  return rows.map((row) => {
    const mail = receivers.mails.get(mailSubject(requestOf(row.tags) ?? -1));
    return {
      ...row,
      createdAt: new Date(row.createdAt).toISOString(),
      finishedAt: row.finishedAt === null ? null : new Date(row.finishedAt).toISOString(),
      posts: receivers.posts.get(row.id) ?? 0,
      mails: mail?.count ?? 0,
      messageIds: mail?.messageIds.size ?? 0,
    };
  });
}
