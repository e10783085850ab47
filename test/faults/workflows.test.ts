/** Workflows on the whole system: every step ends, in the state that follows from the ends before it, whatever is killed. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';

interface Step {
  readonly job: string;
  readonly state: string;
  readonly result: any;
  readonly error: { code: string; message: string } | null;
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

async function get(system: System, id: string): Promise<Workflow> {
  return (await (await system.client.get(`/v1/workflows/${id}`)).json()) as Workflow;
}

async function ended(system: System, { id }: Workflow): Promise<Workflow> {
  let last: unknown;
  return waitFor(
    async () => {
      const workflow = await get(system, id);
      last = workflow.counts;
      return workflow.state === 'running' ? undefined : workflow;
    },
    { what: 'the workflow to end', seen: () => last },
  );
}

const statesOf = (workflow: Workflow): Record<string, string> =>
  Object.fromEntries(Object.entries(workflow.steps).map(([name, step]) => [name, step.state]));

const echo = (value: unknown, more: object = {}) => ({ task: 'test.echo', input: { value }, ...more });
const fails = (more: object = {}) => ({ task: 'test.fail', input: { how: 'invalid' }, ...more });

describe.concurrent('workflows', () => {
  test('a chain hands its file from step to step', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const workflow = await ended(
        system,
        await start(system, {
          write: { task: 'test.write', input: { text: 'hello' } },
          upper: { task: 'test.files', input: { file: { $from: 'write', path: 'file' } } },
          again: { task: 'test.files', input: { files: { $from: 'upper', path: 'files' } } },
        }),
      );
      expect(workflow.state).toBe('succeeded');
      const file = workflow.steps['again']?.result.files[0];
      expect(await (await system.client.get(`/v1/files/${file}/content`)).text()).toBe('HELLO');
    });
  });

  test('a group runs at the same time, a chord takes all of its results, a diamond meets again', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const names = Array.from({ length: 12 }, (_, index) => `member-${index}`);
      const workflow = await ended(
        system,
        await start(system, {
          top: echo('top'),
          ...Object.fromEntries(
            names.map((name, index) => [name, echo([index, { $from: 'top', path: 'value' }])]),
          ),
          chord: echo(names.map((name) => ({ $from: name, path: 'value' }))),
        }),
      );
      expect(workflow.state).toBe('succeeded');
      expect(workflow.steps['chord']?.result.value).toEqual(names.map((_, index) => [index, 'top']));
    });
  });

  test('what a step is given must fit its task, or the step fails and says why', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const workflow = await ended(
        system,
        await start(system, {
          any: echo('text'),
          number: { task: 'test.noop', input: { n: { $from: 'any', path: 'value' } } },
          missing: { task: 'test.misreport', input: { done: 1, total: { $from: 'any', path: 'nothing.0' } } },
          last: echo(1, { after: ['number'] }),
          other: echo(2, { after: ['any'] }),
        }),
      );
      expect(workflow).toMatchObject({
        state: 'failed',
        steps: {
          number: {
            state: 'failed',
            error: {
              code: 'task-input',
              message: expect.stringContaining('expected number, received string'),
            },
          },
          missing: { state: 'failed', error: { code: 'task-input' } },
          last: { state: 'cancelled', error: { code: 'parent-failed' } },
          other: { state: 'succeeded' },
        },
      });
    });
  });

  test('cancelled while it runs, it is over within moments, and retried it goes on from there', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      const gated = { task: 'test.sleep', input: { dir: system.marks, until: 'go' } };
      const workflow = await start(system, {
        first: echo(1),
        slow: { ...gated, after: ['first'] },
        last: echo(3, { after: ['slow'] }),
      });
      await system.started([workflow.steps['slow']?.job ?? '']);
      expect((await system.client.post(`/v1/workflows/${workflow.id}/cancel`)).status).toBe(202);
      const cancelled = await ended(system, workflow);
      expect(cancelled.state).toBe('cancelled');
      expect(statesOf(cancelled)).toEqual({ first: 'succeeded', slow: 'cancelled', last: 'cancelled' });

      writeFileSync(join(system.marks, 'go'), '');
      const retried = await system.client.post(`/v1/workflows/${workflow.id}/retry`);
      expect(retried.status).toBe(202);
      const again = await ended(system, workflow);
      expect(again.state).toBe('succeeded');
      expect(again.steps['first']?.job).toBe(workflow.steps['first']?.job);
    });
  });

  test.each(['run.before-commit', 'run.after-commit'])(
    'a worker that dies at %s of a parent strands no child',
    async (point) => {
      await withSystem({}, async (system) => {
        const dying = await system.startWorker({ CRASH_AT: point });
        const workflow = await start(system, {
          parent: { task: 'test.write', input: { text: 'hello' } },
          child: { task: 'test.files', input: { file: { $from: 'parent', path: 'file' } } },
        });
        await dying.exited;
        await system.startWorker();
        const { state, steps } = await ended(system, workflow);
        expect(state).toBe('succeeded');
        const file = steps['child']?.result.files[0];
        expect(await (await system.client.get(`/v1/files/${file}/content`)).text()).toBe('HELLO');
      });
    },
  );

  test('random graphs with failures end as the model says, although workers are killed', async () => {
    await withSystem({}, async (system) => {
      const workers = [await system.startWorker(), await system.startWorker()];
      const graph = fc.array(
        fc.record({
          isFailing: fc.integer({ min: 0, max: 7 }).map((n) => n === 0),
          isOptional: fc.boolean(),
          takes: fc.boolean(),
          parents: fc.uniqueArray(fc.nat(1_000), { maxLength: 3 }),
        }),
        { minLength: 25, maxLength: 25 },
      );
      for (const nodes of fc.sample(graph, 4)) {
        const expected: Record<string, string> = {};
        const steps: Record<string, unknown> = {};
        nodes.forEach((node, index) => {
          const parents =
            index === 0 ? [] : [...new Set(node.parents.map((parent) => parent % index))].map((n) => `s${n}`);
          const isDoomed = parents.some(
            (name) => expected[name] !== 'succeeded' && nodes[Number(name.slice(1))]?.isOptional !== true,
          );
          expected[`s${index}`] = isDoomed ? 'cancelled' : node.isFailing ? 'failed' : 'succeeded';
          const more = { after: parents, optional: node.isOptional };
          const value = node.takes ? parents.map((name) => ({ $from: name, path: 'value' })) : index;
          steps[`s${index}`] = node.isFailing ? fails(more) : echo(value, more);
          // What a failing step returns is no object with a value.
          if (node.takes && !node.isFailing)
            steps[`s${index}`] = echo(
              parents.map((name) =>
                nodes[Number(name.slice(1))]?.isFailing === true
                  ? { $from: name }
                  : { $from: name, path: 'value' },
              ),
              more,
            );
        });
        const workflow = await start(system, steps);
        await waitFor(
          async () =>
            ((await get(system, workflow.id)).counts['succeeded'] ?? 0) > 2 ||
            (await get(system, workflow.id)).state !== 'running'
              ? true
              : undefined,
          { what: 'the first steps to end' },
        );
        await workers.shift()?.kill('SIGKILL');
        workers.push(await system.startWorker());
        expect(statesOf(await ended(system, workflow))).toEqual(expected);
      }
      const { rows } = await system.db.query(
        `SELECT a.job_id FROM attempts a JOIN job_dependencies d ON d.child_id = a.job_id JOIN jobs p ON p.id = d.parent_id
         WHERE a.started_at < p.finished_at`,
      );
      expect(rows).toEqual([]);
    });
  });

  test('a thousand steps run from the first to the last', async () => {
    await withSystem({}, async (system) => {
      await system.startWorker();
      // 50 layers of 20, each step after two of the layer before; the last one takes a result of every layer's first.
      const steps: Record<string, unknown> = {};
      for (let layer = 0; layer < 50; layer += 1) {
        for (let place = 0; place < 20 && layer * 20 + place < 999; place += 1) {
          const after = layer === 0 ? [] : [`${layer - 1}-${place}`, `${layer - 1}-${(place + 1) % 20}`];
          steps[`${layer}-${place}`] = { task: 'test.noop', input: { n: layer }, after };
        }
      }
      steps['last'] = {
        ...echo(Array.from({ length: 50 }, (_, layer) => ({ $from: `${layer}-0`, path: 'n' }))),
        after: Array.from({ length: 19 }, (_, place) => `49-${place}`),
      };
      const workflow = await ended(system, await start(system, steps));
      expect(workflow).toMatchObject({ state: 'succeeded', counts: { total: 1_000, succeeded: 1_000 } });
      expect(workflow.steps['last']?.result.value).toEqual(Array.from({ length: 50 }, (_, layer) => layer));
    });
  });
});
