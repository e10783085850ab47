/** Steps for every item of a list, on the whole system: every item has one job, and the step ends as its items did. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { forEachItemsMax } from '#shared/domain/for-each.ts';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';

interface Step {
  readonly job: string;
  readonly state: string;
  readonly result: any;
  readonly error: { code: string; message: string } | null;
  readonly forEach: { total: number | null; counts: Record<string, number>; jobs: string } | null;
}
interface Workflow {
  readonly id: string;
  readonly state: string;
  readonly counts: Record<string, number>;
  readonly steps: Record<string, Step>;
}

async function start(system: System, steps: unknown): Promise<Workflow> {
  const response = await system.client.post('/v1/workflows', { steps });
  if (response.status !== 202) throw new Error(await response.text());
  const workflow = (await response.json()) as Workflow;
  system.accepted.push(...Object.values(workflow.steps).map((step) => step.job));
  return workflow;
}

async function get(system: System, { id }: { id: string }): Promise<Workflow> {
  return (await (await system.client.get(`/v1/workflows/${id}`)).json()) as Workflow;
}

async function until(
  system: System,
  workflow: Workflow,
  what: string,
  holds: (seen: Workflow) => boolean,
): Promise<Workflow> {
  let last: unknown;
  return waitFor(
    async () => {
      const seen = await get(system, workflow);
      last = Object.entries(seen.steps).map(([name, step]) => [name, step.state, step.forEach?.counts]);
      return holds(seen) ? seen : undefined;
    },
    { what, seen: () => last },
  );
}

const ended = (system: System, workflow: Workflow): Promise<Workflow> =>
  until(system, workflow, 'the workflow to end', ({ state }) => state !== 'running');

interface Item {
  readonly id: string;
  readonly state: string;
  readonly error: { code: string; message: string } | null;
  readonly workflow: { id: string; step: string; item: number };
}

/** All items of a step, in the order of the list. */
async function items(system: System, step: Step | undefined): Promise<Item[]> {
  const response = await system.client.get(`${step?.forEach?.jobs}&limit=100`);
  const { data } = (await response.json()) as { data: Item[] };
  return data.toSorted((a, b) => a.workflow.item - b.workflow.item);
}

/** Jobs per item of all steps, by what the record says: more or fewer than one is wrong. */
async function wrongItems(system: System): Promise<unknown[]> {
  const { rows } = await system.db.query(
    `SELECT each_id, each_index, count(*) AS jobs FROM jobs WHERE each_id IS NOT NULL GROUP BY 1, 2 HAVING count(*) <> 1`,
  );
  return rows;
}

const range = (length: number): number[] => Array.from({ length }, (_, index) => index);
const echoItem = (forEach: unknown, more: object = {}) => ({
  task: 'test.echo',
  forEach,
  input: { value: { got: { $item: true }, number: { $index: true } } },
  ...more,
});

describe.concurrent('for each', () => {
  test('a list that is sent is done item by item, and the result has the order of the list', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const workflow = await ended(
        system,
        await start(system, {
          first: { task: 'test.echo', input: { value: 'from first' } },
          all: echoItem(['a', { b: [1] }, null, { $from: 'first', path: 'value' }]),
          one: { task: 'test.echo', input: { value: { $from: 'all', path: '1.value.got.b' } } },
          none: echoItem([]),
          after: { task: 'test.echo', input: { value: { $from: 'none' } } },
        }),
      );
      expect(workflow.state).toBe('succeeded');
      expect(workflow.steps['all']?.result.map((result: any) => result.value)).toEqual([
        { got: 'a', number: 0 },
        { got: { b: [1] }, number: 1 },
        { got: null, number: 2 },
        { got: 'from first', number: 3 },
      ]);
      expect(workflow.steps['one']?.result.value).toEqual([1]);
      expect(workflow.steps['none']).toMatchObject({ state: 'succeeded', result: [], forEach: { total: 0 } });
      expect(workflow.steps['after']?.result.value).toEqual([]);
    });
  });

  test('a list that another step makes hands its files to the items, and theirs to later steps', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const workflow = await ended(
        system,
        await start(system, {
          write: { task: 'test.write', forEach: ['a', 'b', 'c'], input: { text: { $item: true } } },
          upper: {
            task: 'test.files',
            forEach: { $from: 'write' },
            input: { file: { $item: true, path: 'file' } },
          },
          last: { task: 'test.files', input: { file: { $from: 'upper', path: '2.files.0' } } },
        }),
      );
      expect(workflow.state).toBe('succeeded');
      expect(workflow.steps['upper']?.forEach).toMatchObject({ total: 3, counts: { succeeded: 3 } });
      const file = workflow.steps['last']?.result.files[0];
      expect(await (await system.client.get(`/v1/files/${file}/content`)).text()).toBe('C');
      expect(await items(system, workflow.steps['upper'])).toMatchObject(
        range(3).map((item) => ({ state: 'succeeded', workflow: { id: workflow.id, step: 'upper', item } })),
      );
    });
  });

  test('the entries of an archive are items', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const body = readFileSync(new URL('../fixtures/archive.zip', import.meta.url));
      const headers = { 'content-type': 'application/zip' };
      const upload = await system.client.request('POST', '/v1/files', { body, headers });
      const { id: file } = (await upload.json()) as { id: string };
      const workflow = await ended(
        system,
        await start(system, {
          unpack: { task: 'archive.extract', input: { file } },
          look: {
            task: 'file.inspect',
            forEach: { $from: 'unpack', path: 'files' },
            input: { file: { $item: true, path: 'file' } },
          },
        }),
      );
      expect(workflow.state).toBe('succeeded');
      const { unpack, look } = workflow.steps;
      expect(unpack?.result.files.length).toBeGreaterThan(0);
      expect(look?.result.map((seen: any) => seen.sizeBytes)).toEqual(
        unpack?.result.files.map((entry: any) => entry.sizeBytes),
      );
    });
  });

  test('an item that fails fails the step when all have ended, and with optionalItems is null', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const given = { task: 'test.echo', input: { value: [1, 'two', 3] } };
      // "two" is no number: what the schemas leave open is found when the item is there.
      const each = {
        task: 'test.noop',
        forEach: { $from: 'given', path: 'value' },
        input: { n: { $item: true } },
      };
      const workflow = await ended(
        system,
        await start(system, {
          given,
          strict: each,
          after: { task: 'test.noop', after: ['strict'] },
          lenient: { ...each, optionalItems: true },
          list: { task: 'test.echo', input: { value: { $from: 'lenient' } } },
          unlisted: { ...each, forEach: { $from: 'given', path: 'value.0' }, optional: true },
        }),
      );
      const { strict, after, lenient, list, unlisted } = workflow.steps;
      expect(workflow.state).toBe('failed');
      expect(strict).toMatchObject({
        state: 'failed',
        error: {
          code: 'item-failed',
          message: expect.stringContaining('1 of 3 items did not succeed. The first is item 1'),
        },
        forEach: { total: 3, counts: { succeeded: 2, failed: 1 } },
      });
      expect(strict?.error?.message).toContain('task-input: The input does not fit the task: at "/n"');
      expect(after).toMatchObject({ state: 'cancelled', error: { code: 'parent-failed' } });
      expect(lenient).toMatchObject({ state: 'succeeded', result: [{ n: 1 }, null, { n: 3 }] });
      expect(list?.result.value).toEqual([{ n: 1 }, null, { n: 3 }]);
      expect(unlisted).toMatchObject({
        state: 'failed',
        error: { code: 'task-input', message: expect.stringContaining('takes a list') },
      });
      const [, bad] = await items(system, strict);
      expect(bad).toMatchObject({ state: 'failed', error: { code: 'task-input' } });
    });
  });

  test('a list with too many items fails the step, and makes no job', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const workflow = await ended(
        system,
        await start(system, {
          given: { task: 'test.echo', input: { value: range(forEachItemsMax + 1) } },
          all: {
            task: 'test.noop',
            forEach: { $from: 'given', path: 'value' },
            input: { n: { $item: true } },
          },
        }),
      );
      expect(workflow.steps['all']).toMatchObject({
        state: 'failed',
        error: { code: 'too-many-items', message: expect.stringContaining(String(forEachItemsMax)) },
        forEach: { total: null, counts: { failed: 0 } },
      });
      const { rowCount } = await system.db.query('SELECT FROM jobs WHERE each_id IS NOT NULL');
      expect(rowCount).toBe(0);
    });
  });

  test('a thousand items are done, never more at once than the limit says', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker({ WINDLASS_INLINE_SLOTS: '50' });
      let busiest = 0;
      const workflow = await start(system, {
        all: { task: 'test.noop', forEach: range(1_000), input: { n: { $item: true } }, limit: 40 },
        last: { task: 'test.echo', input: { value: { $from: 'all', path: '999.n' } } },
      });
      const done = await until(system, workflow, 'the workflow to end', ({ state, steps }) => {
        const { queued = 0, active = 0 } = steps['all']?.forEach?.counts ?? {};
        expect(active).toBeLessThanOrEqual(40);
        busiest = Math.max(busiest, queued + active);
        return state !== 'running';
      });
      const { rows } = await system.db.query<{ most: number }>(`
        SELECT max(running) AS most FROM (SELECT sum(delta) OVER (ORDER BY at, delta) AS running FROM (
          SELECT a.started_at AS at, 1 AS delta FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.each_id IS NOT NULL
          UNION ALL SELECT a.finished_at, -1 FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.each_id IS NOT NULL) AS moves) AS sums`);
      expect(rows[0]?.most).toBeLessThanOrEqual(40);
      expect(busiest).toBeGreaterThan(40);
      expect(done.state).toBe('succeeded');
      expect(done.steps['all']?.result.map(({ n }: { n: number }) => n)).toEqual(range(1_000));
      expect(done.steps['last']?.result.value).toBe(999);
    });
  });

  test('a cancel ends all items, and a retry runs again only those that had not succeeded', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const gate = { dir: system.marks, until: 'go' };
      const workflow = await start(system, {
        // The first two end at once, the others wait for the gate.
        all: {
          task: 'test.sleep',
          forEach: [{}, {}, gate, gate, gate, gate],
          input: { dir: { $item: true, path: 'dir' }, until: { $item: true, path: 'until' } },
          limit: 2,
        },
        last: { task: 'test.echo', input: { value: { $from: 'all' } } },
      });
      const before = await until(system, workflow, 'two items to run', ({ steps }) => {
        const { succeeded, active } = steps['all']?.forEach?.counts ?? {};
        return succeeded === 2 && active === 2;
      });
      const first = await items(system, before.steps['all']);
      expect((await system.client.post(`/v1/workflows/${workflow.id}/cancel`)).status).toBe(202);
      expect((await system.client.post(`/v1/workflows/${workflow.id}/cancel`)).status).toBe(202);
      const cancelled = await ended(system, workflow);
      expect(cancelled).toMatchObject({
        state: 'cancelled',
        steps: {
          all: { state: 'cancelled', forEach: { counts: { succeeded: 2, cancelled: 4 } } },
          last: { state: 'cancelled' },
        },
      });
      writeFileSync(join(system.marks, 'go'), '');
      expect((await system.client.post(`/v1/workflows/${workflow.id}/retry`)).status).toBe(202);
      const again = await ended(system, workflow);
      expect(again).toMatchObject({
        state: 'succeeded',
        steps: { all: { forEach: { counts: { succeeded: 6 } } } },
      });
      expect(again.steps['last']?.result.value).toHaveLength(6);
      const second = await items(system, again.steps['all']);
      expect(second.map((item, index) => item.id === first[index]?.id)).toEqual([
        true,
        true,
        false,
        false,
        false,
        false,
      ]);
      expect(await wrongItems(system)).toEqual([]);
    });
  });

  test('whatever becomes of its items one by one, the step ends', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const gate = { dir: system.marks, until: 'go' };
      const workflow = await start(system, {
        all: {
          task: 'test.sleep',
          forEach: [gate, gate, gate],
          input: { dir: { $item: true, path: 'dir' }, until: { $item: true, path: 'until' } },
          limit: 1,
          options: { startWithinMs: 3_600_000 },
          optionalItems: true,
        },
      });
      const before = await until(
        system,
        workflow,
        'one item to run',
        ({ steps }) => steps['all']?.forEach?.counts['active'] === 1,
      );
      const [running, waiting, late] = await items(system, before.steps['all']);
      // An item belongs to its step until that has ended.
      expect((await system.client.post(`/v1/jobs/${waiting?.id}/cancel`)).status).toBe(202);
      const refused = await system.client.request('DELETE', `/v1/jobs/${waiting?.id}`);
      expect(((await refused.json()) as { code: string }).code).toBe('job-in-use');
      // The third expires while the first runs.
      await system.db.query('UPDATE jobs SET start_before = now() WHERE id = $1', [late?.id]);
      await until(
        system,
        workflow,
        'the last item to expire',
        ({ steps }) => steps['all']?.forEach?.counts['failed'] === 1,
      );
      expect((await system.client.post(`/v1/jobs/${running?.id}/cancel`)).status).toBe(202);
      expect(await ended(system, workflow)).toMatchObject({
        state: 'succeeded',
        steps: { all: { result: [null, null, null], forEach: { counts: { cancelled: 2, failed: 1 } } } },
      });
    });
  });

  test('a list whose workers are killed again and again is done as the model says', async () => {
    await withSystem({}, async (system) => {
      let workers = [await system.startWorker(), await system.startWorker()];
      // Every seventh item fails for good; the others hand on what they were given.
      const list = range(150).map((n) => (n % 7 === 3 ? 'no number' : n));
      const workflow = await start(system, {
        given: { task: 'test.echo', input: { value: list } },
        all: {
          task: 'test.noop',
          forEach: { $from: 'given', path: 'value' },
          input: { n: { $item: true } },
          optionalItems: true,
          limit: 5,
        },
        again: {
          task: 'test.echo',
          forEach: { $from: 'all' },
          input: { value: { $item: true } },
          options: { attempts: 10 },
        },
      });
      for (const share of [10, 60, 120, 200, 280]) {
        await until(system, workflow, `${share} items to end`, ({ steps }) => {
          const counts = [steps['all'], steps['again']].map((step) => step?.forEach?.counts);
          return (
            counts.reduce((sum, now) => sum + (now?.['succeeded'] ?? 0) + (now?.['failed'] ?? 0), 0) >= share
          );
        });
        const [first, ...rest] = workers;
        await first?.kill('SIGKILL');
        workers = [...rest, await system.startWorker()];
      }
      const done = await ended(system, workflow);
      const expected = list.map((n) => (typeof n === 'number' ? { n } : null));
      expect(done.state).toBe('succeeded');
      expect(done.steps['all']?.result).toEqual(expected);
      expect(done.steps['again']?.result.map((result: any) => result.value)).toEqual(expected);
      expect(await wrongItems(system)).toEqual([]);
    });
  });

  test.each([
    { point: 'each.before-commit', deaths: 2, made: [0, 0] },
    { point: 'each.after-commit', deaths: 2, made: [500, 1_000] },
    { point: 'each.before-collect', deaths: 1, made: [1_200] },
    { point: 'run.before-commit', deaths: 1, made: [1_200] },
  ] as const)(
    'F43: killed at $point, a step goes on where it was, and every item has one job',
    async ({ point, deaths, made }) => {
      await withSystem({}, async (system) => {
        const workflow = await start(system, {
          all: { task: 'test.noop', forEach: range(1_200), input: { n: { $item: true } }, limit: 1_000 },
        });
        const count = async () =>
          (await system.db.query('SELECT FROM jobs WHERE each_id IS NOT NULL')).rowCount;
        for (let n = 0; n < deaths; n += 1) {
          const dying = await system.startWorker({ CRASH_AT: point, WINDLASS_QUEUES: 'workflow:1' });
          // What collects waits for the items.
          if (point !== 'each.before-commit' && point !== 'each.after-commit')
            await system.startWorker({ WINDLASS_QUEUES: 'noop:20' });
          await dying.exited;
          expect(await count()).toBe(made[n]);
        }
        await system.startWorker();
        const done = await ended(system, workflow);
        expect(done).toMatchObject({
          state: 'succeeded',
          steps: { all: { forEach: { total: 1_200, counts: { succeeded: 1_200 } } } },
        });
        expect(done.steps['all']?.result.map(({ n }: { n: number }) => n)).toEqual(range(1_200));
        expect(await wrongItems(system)).toEqual([]);
        const { rows } = await system.db.query<{ attempts: number }>(
          'SELECT count(*) AS attempts FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.each_id IS NOT NULL',
        );
        expect(rows[0]?.attempts).toBe(1_200);
      });
    },
  );
});
