import { z } from 'zod';
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
  description: 'Needs Postgres and a writable storage, and not to be stopping. Redis is reported only: jobs are accepted without it.',
  responses: {
    200: { description: 'Ready.', schema: z.object({ status: z.string(), checks: z.record(z.string(), z.string()) }) },
    503: { description: 'Not ready; `checks` says why.' },
  },
  async handle({ deps, res }) {
    const [postgres, storage] = await Promise.all([
      check(() => deps.db.query('SELECT 1')),
      check(() => deps.storage.check()),
    ]);
    const checks = {
      postgres,
      storage,
      redis: deps.isRedisUp() ? 'ok' : 'away (jobs are accepted and wait)',
      process: deps.isStopping() ? 'stopping' : 'ok',
      isolation: 'the log of each worker says how its task hosts are isolated',
    };
    const isReady = postgres === 'ok' && storage === 'ok' && !deps.isStopping();
    res.status(isReady ? 200 : 503).json({ status: isReady ? 'ready' : 'not ready', checks });
  },
});

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
