import { z } from 'zod';
import { listQueueNames, listQueueStats, type QueueStats } from '#shared/db/queue-stats.ts';
import { isStorable } from '#shared/domain/text.ts';
import { AppError } from '#shared/errors.ts';
import type { ApiDeps } from '../../deps.ts';
import { findNearest } from '#shared/domain/find-nearest.ts';

export const queueParams = z.object({ name: z.string() });

export const reason = z.string().max(1_000).refine(isStorable).optional();

/** @throws AppError `not-found` that names the nearest. */
export async function loadQueue(deps: ApiDeps, name: string): Promise<QueueStats> {
  const [stats] = isQueueName(name) ? await listQueueStats(deps.db, name) : [];
  if (stats === undefined) throw await unknownQueue(deps, name);
  return stats;
}

/** What no queue can be called never reaches the database, where some text is an error. */
export function isQueueName(name: string): boolean {
  return /^[a-z][a-z0-9-]{0,62}$/.test(name);
}

export async function unknownQueue(deps: ApiDeps, name: string): Promise<AppError> {
  const nearest = findNearest(name, await listQueueNames(deps.db));
  const hint = nearest === undefined ? 'GET /v1/queues lists all.' : `Did you mean "${nearest}"?`;
  return new AppError('not-found', `There is no queue "${name.slice(0, 100)}". ${hint}`);
}
