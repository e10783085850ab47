/** What docs/api.md says of dead letters, from the first failure to the last delete. */
import { expect, test } from 'vitest';
import type { TestJob } from '#test/support/service.ts';
import { withSystem, type System } from '#test/support/system.ts';

test('failed jobs are found, looked into, retried, replayed with another input, and deleted', () =>
  withSystem({}, async (system) => {
    await system.startWorker();
    const { client } = system;
    const bad = await system.submit('test.fail', { how: 'invalid' }, { tags: ['import'] });
    const weak = await system.submit('test.fail', { how: 'error', succeedsAt: 1 }, { attempts: 1 });
    const poor = await system.submit('test.fail', { how: 'error' }, { attempts: 1, tags: ['import'] });
    await system.finished();
    expect((await client.job(weak)).state).toBe('succeeded');

    // List.
    expect(await search(system, 'state:failed tag:import')).toEqual([poor, bad]);
    const queues = (await (await client.get('/v1/queues')).json()) as { data: { name: string }[] };
    expect(queues.data.find((queue) => queue.name === 'host')).toMatchObject({ counts: { failed: 2 } });

    // Inspect.
    expect(await client.job(bad)).toMatchObject({
      error: { code: 'task-input', message: 'this input can never work', retryable: false },
      attempts: [{ number: 1, outcome: 'failed' }],
    });

    // Retry: the same job, with new attempts. The cause is still there.
    expect((await client.post(`/v1/jobs/${poor}/retry`)).status).toBe(202);
    const again = await client.finished(poor);
    expect([again.state, again.attempts.map((attempt) => attempt.outcome)]).toEqual([
      'failed',
      ['failed', 'failed'],
    ]);

    // Replay, edited: a new job.
    const replayed = (await (
      await client.post(`/v1/jobs/${bad}/replay`, { input: { how: 'invalid', succeedsAt: 1 } })
    ).json()) as TestJob;
    expect(await client.finished(replayed.id)).toMatchObject({
      state: 'succeeded',
      replayOf: bad,
      tags: ['import'],
    });

    // Delete.
    for (const id of [bad, poor]) expect((await client.request('DELETE', `/v1/jobs/${id}`)).status).toBe(204);
    expect(await search(system, 'state:failed')).toEqual([]);
    system.accepted.splice(0, Infinity, weak, replayed.id);
  }));

async function search({ client }: System, query: string): Promise<string[]> {
  const response = await client.get(`/v1/jobs?q=${encodeURIComponent(query)}`);
  return ((await response.json()) as { data: { id: string }[] }).data.map((job) => job.id);
}
