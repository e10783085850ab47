import { z } from 'zod';
import { countLiveWorkers } from '#shared/db/workers.ts';
import type { ApiDeps } from '../../deps.ts';
import { defineRoute } from '../../http/define-route.ts';

const status = z.object({ status: z.string() });

export const getLivez = defineRoute({
  method: 'get',
  path: '/livez',
  scope: 'public',
  tag: 'Operation',
  summary: 'Is the process alive?',
  description: 'Asks nothing of Postgres or Redis: restarting the api does not mend those.',
  responses: { 200: { description: 'It is.', schema: status } },
  handle({ res }) {
    res.json({ status: 'ok' });
    return Promise.resolve();
  },
});

const checkMs = 2_000;

export const getReadyz = defineRoute({
  method: 'get',
  path: '/readyz',
  scope: 'public',
  tag: 'Operation',
  summary: 'Can this process take requests?',
  description:
    'Needs Postgres and a writable storage, and not to be stopping. Redis is reported only: jobs are accepted without it.',
  responses: {
    200: {
      description: 'Ready.',
      schema: z.object({ status: z.string(), checks: z.record(z.string(), z.string()) }),
    },
    503: { description: 'Not ready; `checks` says why.' },
  },
  async handle({ deps, res }) {
    const [{ postgres, workers }, storage] = await Promise.all([
      checkPostgres(deps),
      check(() => deps.storage.check()),
    ]);
    const checks = {
      postgres,
      storage,
      redis: deps.redisState(),
      process: deps.isStopping() ? 'stopping' : 'ok',
      workers,
    };
    const isReady = postgres === 'ok' && storage === 'ok' && !deps.isStopping();
    res.status(isReady ? 200 : 503).json({ status: isReady ? 'ready' : 'not ready', checks });
  },
});

/** Workers are reported only: the api accepts jobs while there are none. */
async function checkPostgres(deps: ApiDeps): Promise<{ postgres: string; workers: string }> {
  let workers = 'unknown';
  const postgres = await check(async () => {
    const { live, withoutUserIsolation } = await countLiveWorkers(deps.checkDb);
    const apart =
      withoutUserIsolation === 0
        ? 'each task host has a user id of its own'
        : `${withoutUserIsolation} run task hosts as their own user`;
    workers = live === 0 ? 'none (jobs are accepted and wait)' : `${live} live, ${apart}`;
  });
  return { postgres, workers };
}

/** "ok", or what failed, within a bounded time. */
async function check(probe: () => Promise<unknown>): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`no answer within ${checkMs} ms`), checkMs);
  });
  const answer = probe().then(
    () => 'ok',
    () => 'away',
  );
  const first = await Promise.race([answer, late]);
  clearTimeout(timer);
  return first;
}
