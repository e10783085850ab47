import { z } from 'zod';
import { findWorker, setQuiet } from '#shared/db/worker-list.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import type { RouteContext } from '../../http/define-route.ts';
import { presentWorker } from '../../present-worker.ts';

export const workerParams = z.object({ id: z.string() });

/** Sets the switch and answers the worker. @throws AppError `not-found`. */
export async function switchWorker(
  { deps, identity, params: { id }, res }: RouteContext<{ id: string }, unknown, unknown>,
  isQuiet: boolean,
): Promise<void> {
  const isSet = isUuid(id) && (await setQuiet(deps.db, id, isQuiet));
  const worker = isSet ? await findWorker(deps.db, identity.tenantId, id) : undefined;
  if (worker === undefined)
    throw new AppError('not-found', `There is no worker ${id.slice(0, 64)}, or it is dead.`);
  res.json(presentWorker(worker));
}
