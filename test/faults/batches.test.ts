/** Batches while something breaks: all of a batch or nothing, what waits for it starts once. */
import { expect, test } from 'vitest';
import { createClient } from '#test/support/service.ts';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';

interface Batch {
  readonly id: string;
  readonly items: readonly { id: string }[];
  readonly onComplete: { id: string } | null;
}

const noops = (count: number) =>
  Array.from({ length: count }, (_, n) => ({ task: 'test.noop', input: { n } }));
const afterBatch = { task: 'test.after-batch', input: { note: 'all done' } };

async function countRows({ db }: System): Promise<unknown> {
  const { rows } = await db.query(
    `SELECT (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM batches) AS batches, (SELECT count(*) FROM idempotency_keys) AS keys`,
  );
  return rows[0];
}

async function readBatch(system: System, response: Response): Promise<Batch> {
  expect(response.status).toBe(202);
  const batch = (await response.json()) as Batch;
  system.accepted.push(...batch.items.map((item) => item.id));
  if (batch.onComplete !== null) system.accepted.push(batch.onComplete.id);
  return batch;
}

test.concurrent('F3: an api that dies with a batch written and not committed leaves nothing of it, and the retry makes it once', () =>
  withSystem({}, async (system) => {
    await system.startWorker();
    const dying = await system.startApi({ CRASH_AT: 'accept.before-commit' });
    const body = { jobs: noops(200), onComplete: afterBatch };
    const key = { 'idempotency-key': 'before-commit' };
    await expect(createClient(dying.url).post('/v1/jobs/batch', body, key)).rejects.toThrow('fetch failed');
    await dying.exited;
    const retried = await system.client.post('/v1/jobs/batch', body, key);
    expect(retried.headers.get('idempotency-replayed')).toBeNull();
    await readBatch(system, retried);
    expect((await system.finished()).every((job) => job.state === 'succeeded')).toBe(true);
    expect(await countRows(system)).toEqual({ jobs: 201, batches: 1, keys: 1 });
  }));

test.concurrent('F4, F5: a batch whose api died after the commit runs whole, and its client finds it by the key', () =>
  withSystem({}, async (system) => {
    const dying = await system.startApi({ CRASH_AT: 'accept.after-commit' });
    const body = { jobs: noops(100), onComplete: afterBatch };
    const key = { 'idempotency-key': 'after-commit' };
    await expect(createClient(dying.url).post('/v1/jobs/batch', body, key)).rejects.toThrow('fetch failed');
    await dying.exited;
    await system.startWorker();
    const retried = await system.client.post('/v1/jobs/batch', body, key);
    expect(retried.headers.get('idempotency-replayed')).toBe('true');
    const batch = await readBatch(system, retried);
    await system.finished();
    expect(await system.client.job(batch.onComplete?.id ?? '')).toMatchObject({
      result: {
        note: 'all done',
        batch: { id: batch.id, total: 100, succeeded: 100, failed: 0, cancelled: 0 },
      },
    });
    expect(await countRows(system)).toEqual({ jobs: 101, batches: 1, keys: 1 });
  }));

test.concurrent('F4: a batch whose commit was answered to nobody is a 202, and one batch', () =>
  withSystem({ proxied: ['postgres'] }, async (system, _servers, { postgres }) => {
    const lost = postgres.loseAnswerTo('COMMIT');
    await readBatch(system, await system.client.post('/v1/jobs/batch', { jobs: noops(20) }));
    await lost;
    await system.startWorker();
    expect((await system.finished()).every((job) => job.state === 'succeeded')).toBe(true);
    expect(await countRows(system)).toEqual({ jobs: 20, batches: 1, keys: 0 });
  }));

test.concurrent('F20, F21: equal batches with one key at two apis are one batch and equal answers; another one is refused', () =>
  withSystem({}, async (system) => {
    const apis = [system.client, createClient((await system.startApi()).url)];
    const send = (n: number, body: unknown) =>
      apis[n % 2]?.post('/v1/jobs/batch', body, { 'idempotency-key': 'same' }) ??
      Promise.reject(new Error('There are two.'));
    const answers = await Promise.all(Array.from({ length: 30 }, (_, n) => send(n, { jobs: noops(50) })));
    expect(answers.map((answer) => answer.status)).toEqual(Array.from({ length: 30 }, () => 202));
    expect(answers.filter((answer) => answer.headers.get('idempotency-replayed') === null)).toHaveLength(1);
    const [first, ...others] = await Promise.all(answers.map((answer) => answer.text()));
    for (const text of others) expect(text).toBe(first);
    system.accepted.push(...(JSON.parse(first ?? '') as Batch).items.map((item) => item.id));
    const refused = await send(0, { jobs: noops(49) });
    expect(refused.status).toBe(422);
    expect(await refused.json()).toMatchObject({ code: 'idempotency-mismatch' });
    expect(await countRows(system)).toEqual({ jobs: 50, batches: 1, keys: 1 });
    await system.startWorker();
    await system.finished();
  }));

test.concurrent('F43: what waits for a batch starts, although the worker died right after it had settled the last job', () =>
  withSystem({}, async (system) => {
    const dying = await system.startWorker({ CRASH_AT: 'run.after-commit', WINDLASS_QUEUES: 'noop:1' });
    const batch = await readBatch(
      system,
      await system.client.post('/v1/jobs/batch', { jobs: noops(1), onComplete: afterBatch }),
    );
    await dying.exited;
    const waiting = batch.onComplete?.id ?? '';
    expect(await system.client.job(batch.items[0]?.id ?? '')).toMatchObject({ state: 'succeeded' });
    // Queued where the dying worker had just looked at all batches, which it does once a second.
    expect(['blocked', 'queued']).toContain((await system.client.job(waiting)).state);
    await system.startWorker();
    expect(await system.finished([waiting])).toMatchObject([
      { state: 'succeeded', result: { batch: { id: batch.id, total: 1, succeeded: 1 } } },
    ]);
    expect(await countRows(system)).toMatchObject({ jobs: 2 });
  }));

test.concurrent('what waits for a batch starts once, with several workers and jobs that succeed, fail, crash and are cancelled', () =>
  withSystem({}, async (system) => {
    for (let n = 0; n < 3; n += 1) await system.startWorker();
    const batch = await readBatch(
      system,
      await system.client.post('/v1/jobs/batch', {
        jobs: [
          ...noops(40),
          { task: 'test.fail', input: { how: 'error' }, options: { attempts: 1 } },
          { task: 'test.crash', input: { how: 'exit' }, options: { attempts: 1 } },
          { task: 'test.noop', options: { delayMs: 3_600_000 } },
        ],
        onComplete: afterBatch,
      }),
    );
    const ids = batch.items.map((item) => item.id);
    await system.finished(ids.slice(0, -1));
    const waiting = batch.onComplete?.id ?? '';
    expect(await system.client.job(waiting)).toMatchObject({ state: 'blocked' });
    // The last end is not that of a run: no worker hears of it.
    expect((await system.client.post(`/v1/jobs/${ids.at(-1)}/cancel`)).status).toBe(202);
    expect(await system.finished([waiting])).toMatchObject([
      {
        state: 'succeeded',
        attempts: [{ outcome: 'succeeded' }],
        result: { batch: { total: 43, succeeded: 40, failed: 2, cancelled: 1 } },
      },
    ]);
    await waitFor(
      async () => {
        const progress = (await (await system.client.get(`/v1/batches/${batch.id}`)).json()) as {
          isFinal: boolean;
        };
        return progress.isFinal ? true : undefined;
      },
      { what: 'the batch to say that it is final' },
    );
  }));

test.concurrent('F1, F6: a stream whose api was killed in the middle is sent again, and every line is one job', () =>
  withSystem({}, async (system) => {
    await system.startWorker();
    const dying = await system.startApi();
    const lines = noops(2_000).map((job) => `${JSON.stringify(job)}\n`);
    const send = (url: string) =>
      createClient(url).request('POST', '/v1/jobs/batch', {
        body: lines.join(''),
        headers: { 'content-type': 'application/x-ndjson', 'idempotency-key': 'import' },
      });
    const answered = new Map<number, string>();
    const broken = await send(dying.url);
    await expect(
      (async () => {
        for await (const answer of readAnswers(broken)) {
          if (answer.line !== undefined && answer.id !== undefined) answered.set(answer.line, answer.id);
          if (answered.size === 300) dying.signal('SIGKILL');
        }
      })(),
    ).rejects.toThrow('terminated');
    expect(answered.size).toBeGreaterThanOrEqual(300);
    expect(answered.size).toBeLessThan(2_000);

    const all = new Map<number, string>();
    let end: Answer = {};
    for await (const answer of readAnswers(await send(system.api.url))) {
      if (answer.line !== undefined && answer.id !== undefined) all.set(answer.line, answer.id);
      else end = answer;
    }
    expect(end).toMatchObject({ refused: 0 });
    for (const [line, id] of answered) expect(all.get(line)).toBe(id);
    expect(new Set(all.values()).size).toBe(2_000);
    system.accepted.push(...all.values());
    expect(await countRows(system)).toEqual({ jobs: 2_000, batches: 1, keys: 2_001 });
    await waitFor(
      async () => {
        const batch = (await (await system.client.get(`/v1/batches/${end.batch}`)).json()) as {
          isFinal: boolean;
        };
        return batch.isFinal ? true : undefined;
      },
      { what: 'all jobs of the stream to end' },
    );
  }));

interface Answer {
  readonly line?: number;
  readonly id?: string;
  readonly batch?: string;
}

async function* readAnswers(response: Response): AsyncGenerator<Answer> {
  expect(response.status).toBe(200);
  let rest = '';
  for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) yield JSON.parse(line) as Answer;
  }
}
