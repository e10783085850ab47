/** Cancelling a job in every state, and at the worst moments: it ends once, as cancelled or as what it became first. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { outcomesOf } from './expect-jobs.ts';

test.concurrent('a job can be cancelled in every state that is not final; an end stays what it is', () =>
  withSystem({}, async (system) => {
    const queued = await system.submit('test.echo', { value: 1 });
    expect(await cancel(system, queued)).toEqual({ status: 202, state: 'cancelled' });
    await system.startWorker();
    const scheduled = await system.submit('test.noop', {}, { delayMs: 3_600_000 });
    const slowly = { type: 'fixed', delayMs: 3_600_000 };
    const retrying = await system.submit('test.fail', { how: 'error' }, { attempts: 10, backoff: slowly });
    const active = await system.submitGated();
    await system.started([active]);
    await untilState(system, scheduled, 'scheduled');
    await untilState(system, retrying, 'retrying');
    for (const id of [scheduled, retrying])
      expect(await cancel(system, id)).toEqual({ status: 202, state: 'cancelled' });
    expect((await cancel(system, active)).status).toBe(202);
    for (const job of await system.finished()) expect(job.state).toBe('cancelled');
    expect(outcomesOf((await system.finished([active]))[0])).toEqual(['cancelled']);
    // Cancelling again is fine, and changes nothing.
    expect(await cancel(system, active)).toEqual({ status: 202, state: 'cancelled' });

    const succeeded = await system.submit('test.noop');
    await system.finished([succeeded]);
    expect(await cancel(system, succeeded)).toEqual({ status: 409, code: 'job-final' });
    const failed = await system.submit('test.fail', { how: 'invalid' });
    await system.finished([failed]);
    expect(await cancel(system, failed)).toEqual({ status: 409, code: 'job-final' });
  }));

test.concurrent('a running job can be cancelled while Redis is away', () =>
  withSystem({ proxied: ['redis'] }, async (system, _servers, { redis }) => {
    await system.startWorker();
    const id = await system.submit('test.spin', { dir: system.marks });
    await system.started([id]);
    redis.refuse();
    await cancel(system, id);
    expect(await system.finished()).toMatchObject([
      { state: 'cancelled', attempts: [{ outcome: 'cancelled' }] },
    ]);
    redis.heal();
  }));

test.concurrent('a job whose worker died after its cancel was asked for ends as cancelled, and does not run again', () =>
  withSystem({}, async (system) => {
    const victim = await system.startWorker();
    const id = await system.submitGated();
    await system.started([id]);
    victim.signal('SIGSTOP');
    await cancel(system, id);
    await victim.kill('SIGKILL');
    await system.startWorker();
    const [job] = await system.finished();
    expect([job?.state, outcomesOf(job)]).toEqual(['cancelled', ['cancelled']]);
    expect((await system.started([id]))[0]).toHaveLength(1);
  }));

test.concurrent('F56: jobs that are cancelled at any moment of their lives end once, and every answer was true', () =>
  withSystem({}, async (system) => {
    await Promise.all([system.startWorker(), system.startWorker()]);
    const tasks = ['test.noop', 'test.write', 'test.noop', 'test.effect'];
    const answers = await Promise.all(
      Array.from({ length: 80 }, async (_, n) => {
        const task = tasks[n % tasks.length] ?? '';
        const id = await system.submit(task, task === 'test.effect' ? { dir: system.marks } : {});
        // From at once to after the end; the last ones for certain, however slow the machine is.
        const moment = n % 16;
        if (moment === 15) await system.client.finished(id);
        else await sleep(moment * 15);
        return { id, answer: await cancel(system, id) };
      }),
    );
    const states = new Map((await system.finished()).map((job) => [job.id, job.state]));
    for (const { id, answer } of answers) {
      const state = states.get(id);
      if (answer.status === 409) expect(state).toBe('succeeded');
      else if (answer.state === 'cancelled') expect(state).toBe('cancelled');
      else expect(['succeeded', 'cancelled']).toContain(state);
    }
    // Otherwise this was no race.
    expect(new Set(states.values())).toEqual(new Set(['succeeded', 'cancelled']));
  }));

async function cancel(
  system: System,
  id: string,
): Promise<{ status: number; state?: string; code?: string }> {
  const response = await system.client.post(`/v1/jobs/${id}/cancel`);
  const { state, code } = (await response.json()) as { state?: string; code?: string };
  return {
    status: response.status,
    ...(state !== undefined && { state }),
    ...(code !== undefined && { code }),
  };
}

async function untilState(system: System, id: string, state: string): Promise<void> {
  await waitFor(async () => ((await system.client.job(id)).state === state ? true : undefined), {
    what: `the job to be ${state}`,
  });
}
