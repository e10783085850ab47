import { z } from 'zod';
import { workerJobsMax, type WorkerStatusRow } from '#shared/db/worker-list.ts';

export const workerSchema = z
  .object({
    id: z.uuid(),
    state: z
      .enum(['live', 'quiet', 'dead'])
      .describe('`quiet`: it takes no new jobs. `dead`: it was silent for its whole lease.'),
    host: z.string(),
    pid: z.int(),
    version: z.string(),
    isolation: z.enum(['user', 'process']).describe('How it keeps the processes of tasks apart.'),
    slots: z.record(z.string(), z.int()).describe('Jobs at once, per queue that it serves.'),
    busy: z.int().describe('Jobs that it runs, of all tenants.'),
    jobs: z
      .array(z.uuid())
      .describe(`Those of them that belong to the tenant of the key; at most ${workerJobsMax}.`),
    memoryBytes: z.int().describe('Of the worker itself, without the processes of tasks.'),
    startedAt: z.iso.datetime(),
    lastHeartbeatAt: z.iso.datetime(),
    quietAt: z.iso.datetime().nullable().describe('Since when it has been told to take no new jobs.'),
  })
  .meta({ id: 'Worker' });

export function presentWorker(row: WorkerStatusRow): z.input<typeof workerSchema> {
  return {
    id: row.id,
    state: row.is_dead ? 'dead' : row.quiet_at === null ? 'live' : 'quiet',
    host: row.host,
    pid: row.pid,
    version: row.version,
    isolation: row.isolation,
    slots: row.slots,
    busy: row.busy,
    jobs: [...row.job_ids],
    memoryBytes: row.memory_bytes,
    startedAt: row.started_at.toISOString(),
    lastHeartbeatAt: row.renewed_at.toISOString(),
    quietAt: row.quiet_at?.toISOString() ?? null,
  };
}
