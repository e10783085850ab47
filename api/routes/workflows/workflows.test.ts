import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { workflowSchema } from '#api/present-workflow.ts';
import { forEachItemsMax } from '#shared/domain/for-each.ts';
import { workflowStepsMax } from '#shared/domain/workflow.ts';
import { pruneWorkflows } from '#shared/db/workflows.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

interface Step {
  readonly job: string;
  readonly state: string;
  readonly after: string[];
  readonly error: { code: string; message: string } | null;
}
interface Workflow {
  readonly id: string;
  readonly state: string;
  readonly counts: Record<string, number>;
  readonly steps: Record<string, Step>;
}

async function accept(steps: unknown, headers: Record<string, string> = {}): Promise<Workflow> {
  const response = await client.post('/v1/workflows', { steps }, headers);
  expect({ status: response.status, text: response.ok ? '' : await response.text() }).toEqual({
    status: 202,
    text: '',
  });
  return (await response.json()) as Workflow;
}

async function refuse(status: number, steps: unknown): Promise<{ code: string; errors: unknown[] }> {
  const count = async () => (await api.db.query('SELECT FROM workflows')).rowCount;
  const before = await count();
  const response = await client.post('/v1/workflows', { steps });
  expect(response.status).toBe(status);
  expect(await count()).toBe(before);
  return (await response.json()) as { code: string; errors: unknown[] };
}

const get = async (id: string): Promise<Workflow> =>
  (await (await client.get(`/v1/workflows/${id}`)).json()) as Workflow;

const noop = { task: 'test.noop' };
const zeros = (length: number) => Array.from({ length }, () => 0);
const chain = { first: noop, second: { ...noop, after: ['first'] }, third: { ...noop, after: ['second'] } };

/** Ends the job of a step as a worker would. */
async function end(job: string, state: 'succeeded' | 'failed', result: unknown = { n: 1 }): Promise<void> {
  await api.db.query(
    `UPDATE jobs SET state = $2, finished_at = now(), dispatched_at = NULL, expires_at = now() + interval '1 day', result = $3 WHERE id = $1`,
    [job, state, state === 'succeeded' ? JSON.stringify(result) : null],
  );
}

describe('202', () => {
  test('every step is a job, which says of which step of which workflow', async () => {
    const workflow = await accept({
      join: { ...noop, after: ['left', 'right'] },
      left: { ...noop, options: { tags: ['a'] } },
      right: { ...noop, options: { delayMs: 60_000 } },
    });
    expect(() => workflowSchema.parse(workflow)).not.toThrow();
    expect(workflow).toMatchObject({
      state: 'running',
      counts: { total: 3, queued: 1, scheduled: 1, blocked: 1, failed: 0 },
      steps: {
        left: { state: 'queued', after: [] },
        right: { state: 'scheduled', after: [] },
        join: { state: 'blocked', after: ['left', 'right'], result: null, error: null, optional: false },
      },
    });
    expect(await get(workflow.id)).toEqual(workflow);
    const { left, join } = workflow.steps;
    const job = await (await client.get(`/v1/jobs/${join?.job}`)).json();
    expect(job).toMatchObject({
      workflow: { id: workflow.id, step: 'join' },
      state: 'blocked',
      dependsOn: expect.arrayContaining([{ job: left?.job, on: 'success' }]),
    });
    const found = await (await client.get(`/v1/jobs?q=workflow:${workflow.id}+tag:a`)).json();
    expect((found as { data: unknown[] }).data).toMatchObject([{ id: left?.job, state: 'queued' }]);
  });

  test('is one workflow however often it is sent with one key; other content is refused', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    const answers = await Promise.all(Array.from({ length: 8 }, () => accept(chain, headers)));
    for (const answer of answers) expect(answer).toEqual(answers[0]);
    await end(answers[0]?.steps['first']?.job ?? '', 'succeeded');
    expect(await accept(chain, headers)).toEqual(answers[0]);
    expect((await client.post('/v1/workflows', { steps: { a: noop } }, headers)).status).toBe(422);
    expect((await client.post('/v1/jobs', noop, headers)).status).toBe(422);
  });

  test('takes a thousand steps, and more than other calls may send', async () => {
    const text = 'x'.repeat(300);
    const names = Array.from({ length: workflowStepsMax }, (_, index) => `s${index}`);
    const steps = Object.fromEntries(
      names.map((name, index) => [
        name,
        { task: 'test.echo', input: { value: text }, after: index === 0 ? [] : [names[index - 1]] },
      ]),
    );
    const workflow = await accept(steps);
    expect(workflow.counts).toMatchObject({ total: workflowStepsMax, blocked: workflowStepsMax - 1 });
    await end(workflow.steps['s0']?.job ?? '', 'failed');
    // What one transaction leaves over is the releaser's; the test does its work.
    for (let count = 1; count > 0;) {
      const { rows } = await api.db.query<{ count: number }>('SELECT settle_dependants() AS count');
      count = rows[0]?.count ?? 0;
    }
    expect(await get(workflow.id)).toMatchObject({
      state: 'failed',
      counts: { failed: 1, cancelled: workflowStepsMax - 1 },
    });
  });
});

describe('422', () => {
  const cases: [string, unknown, { pointer: string; detail: string }[]][] = [
    [
      'a name that is not there',
      { small: noop, next: { ...noop, after: ['smal'] } },
      [{ pointer: '/steps/next/after/0', detail: 'There is no step "smal". Did you mean "small"?' }],
    ],
    [
      'a task that is not there',
      { a: { task: 'test.nop' } },
      [{ pointer: '/steps/a/task', detail: 'There is no task "test.nop". Did you mean "test.noop"?' }],
    ],
    [
      'a step that waits for itself',
      { a: { ...noop, after: ['a'] } },
      [{ pointer: '/steps/a', detail: 'The step "a" waits for itself.' }],
    ],
    [
      'a cycle, also through an input',
      {
        a: { ...noop, after: ['c'] },
        b: { task: 'test.echo', input: { value: { $from: 'a' } } },
        c: { ...noop, after: ['b'] },
      },
      [{ pointer: '/steps/a', detail: 'These steps wait for each other: "a", "c", "b".' }],
    ],
    [
      'a reference to a step that is not there',
      { a: { task: 'test.echo', input: { value: [{ $from: 'b' }] } } },
      [{ pointer: '/steps/a/input/value/0/$from', detail: 'There is no step "b". Did you mean "a"?' }],
    ],
    [
      'a reference that is not written as one',
      { a: noop, b: { task: 'test.echo', input: { value: { $from: 'a', paht: 'n' } } } },
      [
        {
          pointer: '/steps/b/input/value',
          detail: 'A reference has $from and path, and no "paht".',
        },
      ],
    ],
    [
      'a path that the result has not',
      { a: noop, b: { task: 'test.noop', input: { n: { $from: 'a', path: 'm' } } } },
      [{ pointer: '/steps/b/input/n', detail: 'The result of "a" has no "m". Did you mean "n"?' }],
    ],
    [
      'a number where a file is needed',
      { a: noop, b: { task: 'test.files', input: { file: { $from: 'a', path: 'n' } } } },
      [
        {
          pointer: '/steps/b/input/file',
          detail: 'The result of "a" does not fit here: a number is given where a file is needed.',
        },
      ],
    ],
    [
      'a file where a text is needed',
      {
        a: { task: 'test.write' },
        b: { task: 'test.write', input: { text: { $from: 'a', path: 'file' } } },
      },
      [
        {
          pointer: '/steps/b/input/text',
          detail: 'The result of "a" does not fit here: a file is given where a string is needed.',
        },
      ],
    ],
    [
      'a list where one file is needed',
      {
        a: { task: 'test.files', input: {} },
        b: { task: 'test.files', input: { file: { $from: 'a', path: 'files' } } },
      },
      [
        {
          pointer: '/steps/b/input/file',
          detail: 'The result of "a" does not fit here: a array is given where a file is needed.',
        },
      ],
    ],
    [
      'what is wrong beside a reference, and options over a ceiling',
      {
        a: { task: 'test.write', options: { attempts: 99 } },
        b: {
          task: 'image.resize',
          input: { file: { $from: 'a', path: 'file' }, width: 'wide', heigth: 5 },
        },
      },
      [
        { pointer: '/steps/a/options/attempts', detail: 'The task test.write allows at most 10 attempts.' },
        { pointer: '/steps/b/input/width', detail: 'Invalid input: expected number, received string' },
        { pointer: '/steps/b/input/heigth', detail: 'This key is not known here.' },
      ],
    ],
    [
      'a unique key in a step',
      { a: { ...noop, options: { uniqueKey: { key: 'k' } } } },
      [
        {
          pointer: '/steps/a/options/uniqueKey',
          detail: 'A step is always a job of its own, whatever keys others have.',
        },
      ],
    ],
    [
      'dependsOn in a step',
      { a: { ...noop, options: { dependsOn: [randomUUID()] } } },
      [
        {
          pointer: '/steps/a/options/dependsOn',
          detail: 'A step says in "after" what it waits for; "a" may name steps there.',
        },
      ],
    ],
    [
      'forEach that is no list',
      { a: { ...noop, forEach: 'all' } },
      [
        {
          pointer: '/steps/a/forEach',
          detail: 'forEach must be a list, or {"$from": …} that stands for one.',
        },
      ],
    ],
    [
      'an item that does not fit its task, with a pointer to it',
      {
        a: { task: 'test.noop', forEach: [{ n: 1 }, { n: 'two' }], input: { n: { $item: true, path: 'n' } } },
      },
      [
        {
          pointer: '/steps/a/forEach/1/n',
          detail: 'Invalid input: expected number, received string',
        },
      ],
    ],
    [
      'an input that fits no item, once',
      { a: { task: 'test.noop', forEach: [1, 2], input: { m: { $item: true } } } },
      [{ pointer: '/steps/a/input/m', detail: 'This key is not known here.' }],
    ],
    [
      'an item and a number that are not written as such, and a list that names no step',
      {
        a: {
          task: 'test.echo',
          forEach: [1],
          input: { value: [{ $item: 'x' }, { $index: true, path: 'n' }] },
        },
        b: { task: 'test.echo', forEach: { $from: 'c' }, input: { value: { $item: true } } },
      },
      [
        {
          pointer: '/steps/a/input/value/0',
          detail: 'An item is written as {"$item": true} or {"$item": true, "path": "a.b"}.',
        },
        {
          pointer: '/steps/a/input/value/1',
          detail: 'The number of an item is written as {"$index": true}.',
        },
        { pointer: '/steps/b/forEach/$from', detail: 'There is no step "c". Did you mean "a"?' },
      ],
    ],
    [
      'a list from a result that is none',
      {
        a: noop,
        b: { task: 'test.noop', forEach: { $from: 'a', path: 'n' }, input: { n: { $item: true } } },
      },
      [
        {
          pointer: '/steps/b/forEach',
          detail: 'The result of "a" does not fit here: a number is given where a array is needed.',
        },
      ],
    ],
    [
      'items of a result that do not fit, or lack the part',
      {
        a: { task: 'test.files', input: {} },
        b: { task: 'test.noop', forEach: { $from: 'a', path: 'files' }, input: { n: { $item: true } } },
        c: { task: 'test.write', forEach: ['x'], input: { text: { $item: true } } },
        d: { task: 'test.files', forEach: { $from: 'c' }, input: { file: { $item: true, path: 'fiel' } } },
      },
      [
        {
          pointer: '/steps/b/forEach',
          detail:
            'An item of the result of "a" does not fit at /n: a file is given where a number is needed.',
        },
        {
          pointer: '/steps/d/forEach',
          detail: 'An item of the result of "c" has no "fiel". Did you mean "file"?',
        },
      ],
    ],
    [
      'a number of an item where a file is needed',
      {
        a: { task: 'test.files', input: {} },
        b: { task: 'test.files', forEach: { $from: 'a', path: 'files' }, input: { file: { $index: true } } },
      },
      [
        {
          pointer: '/steps/b/input/file',
          detail: 'The number of the item does not fit here: a number is given where a file is needed.',
        },
      ],
    ],
    [
      'the results of all items where that of one is needed, and one that may be null',
      {
        a: { task: 'test.noop', forEach: [1], input: { n: { $item: true } } },
        b: { task: 'test.noop', input: { n: { $from: 'a', path: 'n' } } },
        c: { task: 'test.noop', input: { n: { $from: 'a' } } },
      },
      [
        { pointer: '/steps/b/input/n', detail: 'The result of "a" has no "n".' },
        {
          pointer: '/steps/c/input/n',
          detail: 'The result of "a" does not fit here: a array is given where a number is needed.',
        },
      ],
    ],
    [
      'what belongs to forEach without it, and two limits',
      {
        a: { ...noop, limit: 3, optionalItems: true },
        b: { ...noop, forEach: [], limit: 3, options: { concurrencyKey: 'k' } },
      },
      [
        { pointer: '/steps/a/limit', detail: 'limit is for steps with forEach.' },
        { pointer: '/steps/a/optionalItems', detail: 'optionalItems is for steps with forEach.' },
        {
          pointer: '/steps/b/limit',
          detail: 'The items have a concurrencyKey, which says how many run at once. Leave one of them out.',
        },
      ],
    ],
    [
      'too many items',
      { a: { ...noop, forEach: Array.from({ length: forEachItemsMax + 1 }, () => 0) } },
      [
        {
          pointer: '/steps/a/forEach',
          detail: 'The list has 10001 items; 10000 is the most (forEachItemsMax).',
        },
      ],
    ],
    [
      'more values taken from a step than can be put into an input of this size in one transaction',
      {
        a: noop,
        b: {
          task: 'test.echo',
          input: { value: ['x'.repeat(20_000), ...zeros(5_000).map(() => ({ $from: 'a', path: 'n' }))] },
        },
      },
      [{ pointer: '/steps', detail: expect.stringContaining('workflowRefBytesMax') as string }],
    ],
    [
      'lists whose inputs have too many keys together, in one step or in several',
      {
        a: {
          task: 'test.echo',
          forEach: zeros(200),
          input: { value: [{ $item: true }, ...zeros(2_000)] },
        },
        b: {
          task: 'test.echo',
          forEach: zeros(200),
          input: { value: [{ $item: true }, ...zeros(2_000)] },
        },
        c: {
          task: 'test.echo',
          forEach: [zeros(2_000).map(() => ({ $from: 'a' }))],
          input: { value: zeros(2_000).map(() => ({ $item: true, path: '5' })) },
        },
      },
      ['b', 'c'].map((name) => ({
        pointer: `/steps/${name}/forEach`,
        detail: 'The inputs of the items have more than 500000 keys together (forEachInputKeysMax).',
      })),
    ],
  ];
  test.each(cases)('%s', async (_name, steps, errors) => {
    expect(await refuse(422, steps)).toMatchObject({ code: 'invalid-input', errors });
  });

  test.each([
    ['none', {}],
    ['too many', Object.fromEntries(Array.from({ length: workflowStepsMax + 1 }, (_, i) => [`s${i}`, noop]))],
    ['badly named', { 'a/b': noop }],
  ])('%s steps', async (_name, steps) => {
    expect((await refuse(422, steps)).code).toBe('invalid-input');
  });

  test('a file that is not there or is another tenant’s', async () => {
    expect(await refuse(422, { a: { task: 'test.files', input: { file: randomUUID() } } })).toMatchObject({
      code: 'file-not-found',
      errors: [{ pointer: '/steps/a/input/file' }],
    });
  });

  test('a file of an item that is not there or is another tenant’s', async () => {
    const forEach = [{ f: randomUUID() }];
    const input = { file: { $item: true, path: 'f' } };
    expect(await refuse(422, { a: { task: 'test.files', forEach, input } })).toMatchObject({
      code: 'file-not-found',
      errors: [{ pointer: '/steps/a/forEach/0/f' }],
    });
  });

  test('more edges than the limit', async () => {
    const names = Array.from({ length: 150 }, (_, index) => `s${index}`);
    const steps = Object.fromEntries(
      names.map((name, index) => [name, { ...noop, after: names.slice(0, index) }]),
    );
    expect(await refuse(422, steps)).toMatchObject({
      errors: [{ pointer: '/steps', detail: expect.stringContaining('10000 is the most') }],
    });
  });
});

test('what fits, or may fit, is taken', async () => {
  await accept({
    a: { task: 'test.write' },
    file: { task: 'test.files', input: { files: [{ $from: 'a', path: 'file' }] } },
    files: { task: 'test.files', input: { files: { $from: 'file', path: 'files' } } },
    item: { task: 'test.files', input: { file: { $from: 'file', path: 'files.0' } } },
    open: { task: 'test.echo', input: { value: { deep: { $from: 'a' } } } },
    unknown: { task: 'test.noop', input: { n: { $from: 'open', path: 'any.thing' } } },
    mail: {
      task: 'email.send',
      input: {
        to: ['ada@example.com'],
        subject: 'Your photo',
        text: 'Here it is.',
        attachments: [{ fileId: { $from: 'image', path: 'file' } }],
      },
      after: ['file'],
    },
    image: { task: 'image.resize', input: { file: { $from: 'a', path: 'file' }, width: 5 } },
    each: {
      task: 'image.resize',
      forEach: { $from: 'file', path: 'files' },
      input: { file: { $item: true }, width: 5 },
      limit: 3,
    },
    listed: {
      task: 'test.files',
      forEach: [{ $from: 'a' }, { file: { $from: 'a', path: 'file' } }],
      input: { file: { $item: true, path: 'file' } },
    },
    unsure: {
      task: 'test.noop',
      forEach: { $from: 'open' },
      input: { n: { $index: true } },
      optionalItems: true,
    },
    // As in docs/workflows.md.
    unpack: { task: 'archive.extract', input: { file: { $from: 'a', path: 'file' }, include: ['*.jpg'] } },
    thumbs: {
      task: 'image.resize',
      forEach: { $from: 'unpack', path: 'files' },
      input: { file: { $item: true, path: 'file' }, width: 200 },
      limit: 20,
    },
    looks: {
      task: 'file.inspect',
      forEach: [
        { $from: 'a', path: 'file' },
        { $from: 'thumbs', path: '0.file' },
      ],
      input: { file: { $item: true } },
      optionalItems: true,
    },
    one: { task: 'test.files', input: { file: { $from: 'each', path: '3.file' } } },
    many: { task: 'test.echo', input: { value: { $from: 'unsure' } } },
  });
});

test('a step for each item says so from the beginning, and its job tells what it will do', async () => {
  const headers = { 'idempotency-key': randomUUID() };
  const steps = { all: { ...noop, forEach: [1, 2], input: { n: { $item: true } }, optionalItems: true } };
  const workflow = await accept(steps, headers);
  expect(() => workflowSchema.parse(workflow)).not.toThrow();
  const job = workflow.steps['all']?.job;
  expect(workflow.steps['all']).toMatchObject({
    task: 'test.noop',
    state: 'queued',
    forEach: {
      total: null,
      counts: { queued: 0, succeeded: 0 },
      limit: 100,
      optionalItems: true,
      jobs: `/v1/jobs?q=items:${job}`,
    },
  });
  expect(await get(workflow.id)).toEqual(workflow);
  expect(await accept(steps, headers)).toEqual(workflow);
  expect(await (await client.get(`/v1/jobs/${job}`)).json()).toMatchObject({
    task: 'workflow.each',
    input: { task: 'test.noop', items: [1, 2], limit: 100, places: [{ at: ['n'], path: [] }] },
    workflow: { id: workflow.id, step: 'all', item: null },
  });
});

test('the items of a step are counted in one answer and found by its job, by nobody else', async () => {
  const { id, steps } = await accept({ all: { ...noop, forEach: [1, 2, 3], input: { n: { $item: true } } } });
  const each = steps['all']?.job;
  const ids = [randomUUID(), randomUUID(), randomUUID()];
  await api.db.query(
    `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms, each_id, each_index, workflow_id, workflow_step,
       finished_at)
     SELECT i.id, tenant_id, 'test.noop', 'noop', CASE i.place WHEN 1 THEN 'failed'::job_state ELSE 'queued' END, now(), now(), '{}', 1, 60000, j.id,
       i.place - 1, workflow_id, workflow_step, CASE i.place WHEN 1 THEN now() END
     FROM jobs j CROSS JOIN unnest($2::uuid[]) WITH ORDINALITY AS i(id, place) WHERE j.id = $1`,
    [each, ids],
  );
  await api.db.query(
    `INSERT INTO each_items (each_id, index, tenant_id, job_id) SELECT each_id, each_index, tenant_id, id FROM jobs WHERE each_id = $1`,
    [each],
  );
  await api.db.query(
    `INSERT INTO each_runs (job_id, tenant_id, next_index, total) SELECT id, tenant_id, 3, 3 FROM jobs WHERE id = $1`,
    [each],
  );
  await end(each ?? '', 'failed');
  // The step has ended, two of its items have not.
  const open = await get(id);
  expect(open).toMatchObject({ state: 'running', counts: { total: 1, failed: 1 }, finishedAt: null });
  expect(open.steps['all']).toMatchObject({
    forEach: { total: 3, counts: { queued: 2, failed: 1, active: 0 } },
  });
  const retry = await client.post(`/v1/workflows/${id}/retry`);
  expect(((await retry.json()) as { code: string }).code).toBe('workflow-running');
  const other = await api.client({ tenantId: 'other' });
  const find = async (by: TestClient, q: string) => {
    const page = (await (await by.get(`/v1/jobs?q=${q}`)).json()) as {
      data: { workflow: { item: number } }[];
    };
    return page.data.map((job) => job.workflow.item).toSorted((a, b) => a - b);
  };
  expect(await find(client, `items:${each}`)).toEqual([0, 1, 2]);
  expect(await find(client, `items:${each}+-state:failed`)).toEqual([1, 2]);
  expect(await find(client, `workflow:${id}+-items:${each}`)).toEqual([null]);
  expect(await find(other, `items:${each}`)).toEqual([]);
});

describe('what a step takes', () => {
  test('is in its input when it may run', async () => {
    const { steps } = await accept({
      a: noop,
      b: { task: 'test.echo', input: { value: ['n is', { $from: 'a', path: 'n' }] } },
    });
    await end(steps['a']?.job ?? '', 'succeeded', { n: 7 });
    expect(await (await client.get(`/v1/jobs/${steps['b']?.job}`)).json()).toMatchObject({
      state: 'queued',
      input: { value: ['n is', 7] },
    });
  });

  test('is null, or left out, when an optional step failed; where neither can be, the step is cancelled', async () => {
    const workflow = await accept({
      try: { ...noop, optional: true },
      after: { ...noop, after: ['try'] },
      nullable: { task: 'test.echo', input: { value: { $from: 'try', path: 'n' } } },
      optional: { task: 'test.noop', input: { n: { $from: 'try', path: 'n' } } },
      needed: { task: 'test.misreport', input: { done: 1, total: { $from: 'try', path: 'n' } } },
    });
    await end(workflow.steps['try']?.job ?? '', 'failed');
    const { steps } = await get(workflow.id);
    const inputOf = async (name: string) =>
      ((await (await client.get(`/v1/jobs/${steps[name]?.job}`)).json()) as { input: unknown }).input;
    expect([steps['after']?.state, steps['nullable']?.state, steps['optional']?.state]).toEqual([
      'queued',
      'queued',
      'queued',
    ]);
    expect(await inputOf('nullable')).toEqual({ value: null });
    expect(await inputOf('optional')).toEqual({});
    expect(steps['needed']).toMatchObject({
      state: 'cancelled',
      error: {
        code: 'parent-failed',
        message: `It waited for the step "try" (job ${steps['try']?.job}), which failed.`,
      },
    });
    for (const name of ['after', 'nullable', 'optional']) await end(steps[name]?.job ?? '', 'succeeded');
    expect(await get(workflow.id)).toMatchObject({
      state: 'succeeded',
      counts: { succeeded: 3, failed: 1, cancelled: 1 },
      finishedAt: expect.any(String),
    });
  });
});

describe('cancel', () => {
  test('ends all that waits, and asks what runs to end', async () => {
    const workflow = await accept(chain);
    await end(workflow.steps['first']?.job ?? '', 'succeeded');
    const active = workflow.steps['second']?.job;
    await api.db.query(`UPDATE jobs SET state = 'active', worker_id = gen_random_uuid() WHERE id = $1`, [
      active,
    ]);
    const response = await client.post(`/v1/workflows/${workflow.id}/cancel`, { reason: 'enough' });
    expect(response.status).toBe(202);
    expect(await response.json()).toMatchObject({
      state: 'running',
      steps: { first: { state: 'succeeded' }, second: { state: 'active' }, third: { state: 'cancelled' } },
    });
    const { rows } = await api.db.query(
      'SELECT cancel_requested_at IS NOT NULL AS asked FROM jobs WHERE id = $1',
      [active],
    );
    expect(rows).toEqual([{ asked: true }]);
    await api.db.query(
      `UPDATE jobs SET state = 'cancelled', worker_id = NULL, finished_at = now() WHERE id = $1`,
      [active],
    );
    expect((await get(workflow.id)).state).toBe('cancelled');
    // Once more is fine.
    expect((await client.post(`/v1/workflows/${workflow.id}/cancel`)).status).toBe(202);
  });

  test('409 when it has ended otherwise', async () => {
    const workflow = await accept({ a: noop });
    await end(workflow.steps['a']?.job ?? '', 'succeeded');
    const response = await client.post(`/v1/workflows/${workflow.id}/cancel`);
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([
      409,
      'workflow-final',
    ]);
  });
});

describe('retry', () => {
  test('gives what did not succeed new jobs, and keeps the results of the rest', async () => {
    const workflow = await accept({
      a: noop,
      b: { task: 'test.noop', input: { n: { $from: 'a', path: 'n' } } },
      c: { task: 'test.echo', input: { value: { $from: 'b', path: 'n' } } },
    });
    const running = await client.post(`/v1/workflows/${workflow.id}/retry`);
    expect([running.status, ((await running.json()) as { code: string }).code]).toEqual([
      409,
      'workflow-running',
    ]);
    await end(workflow.steps['a']?.job ?? '', 'succeeded', { n: 3 });
    await end(workflow.steps['b']?.job ?? '', 'failed');
    expect(await get(workflow.id)).toMatchObject({ state: 'failed', steps: { c: { state: 'cancelled' } } });

    const response = await client.post(`/v1/workflows/${workflow.id}/retry`);
    expect(response.status).toBe(202);
    const again = (await response.json()) as Workflow;
    expect(again).toMatchObject({
      state: 'running',
      steps: {
        a: { job: workflow.steps['a']?.job, state: 'succeeded', result: { n: 3 } },
        b: { state: 'queued' },
        c: { state: 'blocked' },
      },
    });
    expect(again.steps['b']?.job).not.toBe(workflow.steps['b']?.job);
    expect(await (await client.get(`/v1/jobs/${again.steps['b']?.job}`)).json()).toMatchObject({
      input: { n: 3 },
    });
    await end(again.steps['b']?.job ?? '', 'succeeded', { n: 4 });
    await end(again.steps['c']?.job ?? '', 'succeeded');
    expect(await get(workflow.id)).toMatchObject({ state: 'succeeded' });
    const nothing = await client.post(`/v1/workflows/${workflow.id}/retry`);
    expect([nothing.status, ((await nothing.json()) as { code: string }).code]).toEqual([
      409,
      'nothing-to-retry',
    ]);
  });

  test('several at the same moment make one set of new jobs', async () => {
    const workflow = await accept(chain);
    await end(workflow.steps['first']?.job ?? '', 'failed');
    const answers = await Promise.all(
      Array.from({ length: 5 }, () => client.post(`/v1/workflows/${workflow.id}/retry`)),
    );
    const statuses = answers.map((answer) => answer.status).toSorted((a, b) => a - b);
    expect(statuses).toEqual([202, 409, 409, 409, 409]);
    const { rowCount } = await api.db.query('SELECT FROM jobs WHERE workflow_id = $1', [workflow.id]);
    expect(rowCount).toBe(6);
  });

  test('410 when a result that is needed has expired', async () => {
    const workflow = await accept({
      a: noop,
      b: { task: 'test.noop', input: { n: { $from: 'a', path: 'n' } } },
    });
    await end(workflow.steps['a']?.job ?? '', 'succeeded');
    await end(workflow.steps['b']?.job ?? '', 'failed');
    await api.db.query(`UPDATE jobs SET purged_at = now(), result = NULL WHERE id = $1`, [
      workflow.steps['a']?.job,
    ]);
    expect((await client.post(`/v1/workflows/${workflow.id}/retry`)).status).toBe(410);
  });
});

test('lists are the newest first, by pages', async () => {
  const other = await api.client({ tenantId: 'pages' });
  const ids: string[] = [];
  for (let index = 0; index < 3; index += 1) {
    const response = await other.post('/v1/workflows', { steps: { a: noop } });
    ids.unshift(((await response.json()) as Workflow).id);
  }
  const page = async (query: string) =>
    (await (await other.get(`/v1/workflows?limit=2${query}`)).json()) as {
      data: Workflow[];
      nextCursor: string | null;
    };
  const first = await page('');
  expect(first.data.map((workflow) => workflow.id)).toEqual(ids.slice(0, 2));
  const second = await page(`&cursor=${first.nextCursor}`);
  expect(second).toMatchObject({ data: [{ id: ids[2], state: 'running' }], nextCursor: null });
});

test('413 for more than even a workflow may be, with the name of the limit', async () => {
  const large = { a: { task: 'test.echo', input: { value: 'x'.repeat(4 * 1024 * 1024) } } };
  const many = { a: { task: 'test.echo', input: { value: Array.from({ length: 50_001 }, () => 1) } } };
  for (const [steps, name] of [
    [large, 'workflowBytesMax'],
    [many, 'workflowKeysMax'],
  ] as const) {
    const response = await client.post('/v1/workflows', { steps });
    expect([response.status, await response.text()]).toEqual([413, expect.stringContaining(name)]);
  }
});

test('a workflow goes when the last of its jobs has gone', async () => {
  const workflow = await accept({ a: noop });
  const isThere = async () => (await client.get(`/v1/workflows/${workflow.id}`)).status === 200;
  const due = () =>
    api.db.query(`UPDATE workflows SET prune_at = now() - interval '1 s' WHERE id = $1`, [workflow.id]);
  await due();
  await pruneWorkflows(api.db, 10);
  expect(await isThere()).toBe(true);
  await api.db.query('DELETE FROM jobs WHERE workflow_id = $1', [workflow.id]);
  expect(await get(workflow.id)).toMatchObject({ steps: { a: { state: null } } });
  await pruneWorkflows(api.db, 10);
  // Looked at once a day.
  expect(await isThere()).toBe(true);
  await due();
  await pruneWorkflows(api.db, 10);
  expect(await isThere()).toBe(false);
});

test('results that are too large together are left out, and say so', async () => {
  const workflow = await accept({ a: noop, b: noop });
  for (const name of ['a', 'b'])
    await end(workflow.steps[name]?.job ?? '', 'succeeded', { n: 'x'.repeat(700_000) });
  const { steps } = (await get(workflow.id)) as unknown as {
    steps: Record<string, { result: unknown; resultOmitted: boolean }>;
  };
  expect(steps['a']?.resultOmitted).toBe(false);
  expect(steps['b']).toMatchObject({ result: null, resultOmitted: true });
});

test('404 for what is not there', async () => {
  for (const [method, path] of [
    ['GET', ''],
    ['POST', '/cancel'],
    ['POST', '/retry'],
  ])
    for (const id of [randomUUID(), 'x'])
      expect((await client.request(method ?? '', `/v1/workflows/${id}${path}`)).status).toBe(404);
});
