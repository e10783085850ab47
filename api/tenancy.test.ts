/**
 * Invariant 5: a tenant sees and touches only its own files, jobs and results; what belongs to others answers 404.
 *
 * Every route has a case here; one without fails the first test. Each case is a request of the tenant alpha about its
 * own things, which is then sent by others: by another tenant, with keys that lack the scope, and without a key.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { scopes, type Scope } from '#shared/db/api-keys.ts';
import { registerWorker } from '#shared/db/workers.ts';
import { uuidv7 } from '#shared/ids.ts';
import { appendLogs } from '#shared/db/job-logs.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';
import type { Route } from './http/define-route.ts';
import { routes } from './routes.ts';

interface Request {
  readonly path: string;
  readonly json?: unknown;
  readonly body?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

interface Case {
  readonly request: (own: Owned) => Request;
  /** What the owner is answered: proves that the request is a good one. */
  readonly owner: number;
  /** What another tenant is answered. `admins only`: the call is about the whole service, not about a tenant. */
  readonly stranger: number | 'admins only';
}

/** Things of the tenant alpha. */
interface Owned {
  readonly endedJob: string;
  readonly waitingJob: string;
  readonly failedJob: string;
  readonly spareJob: string;
  /** Runs on a worker that runs jobs of all tenants. */
  readonly runningJob: string;
  readonly file: string;
  readonly spareFile: string;
  readonly key: string;
  readonly schedule: string;
  readonly spareSchedule: string;
  readonly batch: string;
  readonly workflow: string;
  readonly failedWorkflow: string;
}

/** In everything of alpha's, and in no answer to anybody else. */
const secret = 'alpha-secret';

const workerId = uuidv7();

const email = { to: ['ada@example.com'], subject: 'Hello', text: 'Hello.' };

const cases: Readonly<Record<string, Case>> = {
  'post /v1/jobs': {
    request: (own) => ({ path: '/v1/jobs', json: { task: 'test.files', input: { file: own.file } } }),
    owner: 202,
    stranger: 422,
  },
  'post /v1/jobs/batch': {
    request: (own) => ({
      path: '/v1/jobs/batch',
      json: { jobs: [{ task: 'test.files', input: { file: own.file } }], onComplete: { task: 'test.noop' } },
    }),
    owner: 202,
    stranger: 422,
  },
  'get /v1/batches/:id': {
    request: (own) => ({ path: `/v1/batches/${own.batch}` }),
    owner: 200,
    stranger: 404,
  },
  'post /v1/bulk': {
    request: () => ({ path: '/v1/bulk', json: { action: 'cancel', q: 'task:*', dryRun: true } }),
    owner: 200,
    stranger: 200,
  },
  'get /v1/jobs': { request: () => ({ path: '/v1/jobs' }), owner: 200, stranger: 200 },
  'get /v1/jobs/:id': { request: (own) => ({ path: `/v1/jobs/${own.endedJob}` }), owner: 200, stranger: 404 },
  'get /v1/jobs/:id/result': {
    request: (own) => ({ path: `/v1/jobs/${own.endedJob}/result` }),
    owner: 200,
    stranger: 404,
  },
  'get /v1/jobs/:id/logs': {
    request: (own) => ({ path: `/v1/jobs/${own.endedJob}/logs` }),
    owner: 200,
    stranger: 404,
  },
  'post /v1/jobs/:id/cancel': {
    request: (own) => ({ path: `/v1/jobs/${own.waitingJob}/cancel` }),
    owner: 202,
    stranger: 404,
  },
  'post /v1/workflows': {
    request: (own) => ({
      path: '/v1/workflows',
      json: { steps: { a: { task: 'test.files', input: { file: own.file } } } },
    }),
    owner: 202,
    stranger: 422,
  },
  'get /v1/workflows': { request: () => ({ path: '/v1/workflows' }), owner: 200, stranger: 200 },
  'get /v1/workflows/:id': {
    request: (own) => ({ path: `/v1/workflows/${own.workflow}` }),
    owner: 200,
    stranger: 404,
  },
  'post /v1/workflows/:id/cancel': {
    request: (own) => ({ path: `/v1/workflows/${own.workflow}/cancel` }),
    owner: 202,
    stranger: 404,
  },
  'post /v1/workflows/:id/retry': {
    request: (own) => ({ path: `/v1/workflows/${own.failedWorkflow}/retry` }),
    owner: 202,
    stranger: 404,
  },
  'get /v1/schedules': { request: () => ({ path: '/v1/schedules' }), owner: 200, stranger: 200 },
  'get /v1/schedules/:key': {
    request: (own) => ({ path: `/v1/schedules/${own.schedule}` }),
    owner: 200,
    stranger: 404,
  },
  'put /v1/schedules/:key': {
    request: (own) => ({
      path: `/v1/schedules/${own.schedule}`,
      json: { task: 'test.files', input: { file: own.file }, everyMs: 3_600_000 },
    }),
    owner: 200,
    stranger: 422,
  },
  'post /v1/schedules/:key/trigger': {
    request: (own) => ({ path: `/v1/schedules/${own.schedule}/trigger` }),
    owner: 202,
    stranger: 404,
  },
  'delete /v1/schedules/:key': {
    request: (own) => ({ path: `/v1/schedules/${own.spareSchedule}` }),
    owner: 204,
    stranger: 404,
  },
  'post /v1/jobs/:id/retry': {
    request: (own) => ({ path: `/v1/jobs/${own.failedJob}/retry` }),
    owner: 202,
    stranger: 404,
  },
  'post /v1/jobs/:id/replay': {
    request: (own) => ({ path: `/v1/jobs/${own.endedJob}/replay` }),
    owner: 202,
    stranger: 404,
  },
  'delete /v1/jobs/:id': {
    request: (own) => ({ path: `/v1/jobs/${own.spareJob}` }),
    owner: 204,
    stranger: 404,
  },
  'post /v1/files': {
    request: () => ({ path: '/v1/files', body: 'text', headers: { 'content-type': 'text/plain' } }),
    owner: 201,
    stranger: 201,
  },
  'get /v1/files/:id': { request: (own) => ({ path: `/v1/files/${own.file}` }), owner: 200, stranger: 404 },
  'get /v1/files/:id/content': {
    request: (own) => ({ path: `/v1/files/${own.file}/content` }),
    owner: 200,
    stranger: 404,
  },
  'delete /v1/files/:id': {
    request: (own) => ({ path: `/v1/files/${own.spareFile}` }),
    owner: 204,
    stranger: 404,
  },
  'post /v1/emails': {
    request: (own) => ({ path: '/v1/emails', json: { ...email, attachments: [{ fileId: own.file }] } }),
    owner: 202,
    stranger: 422,
  },
  'get /v1/emails/templates': {
    request: () => ({ path: '/v1/emails/templates' }),
    owner: 200,
    stranger: 200,
  },
  'get /v1/tasks': { request: () => ({ path: '/v1/tasks' }), owner: 200, stranger: 200 },
  'get /v1/tasks/:name': { request: () => ({ path: '/v1/tasks/test.noop' }), owner: 200, stranger: 200 },
  // Queues and workers are those of the service: whoever may run them sees numbers over all tenants, and no job of another.
  'get /v1/queues': { request: () => ({ path: '/v1/queues' }), owner: 200, stranger: 200 },
  'post /v1/queues/:name/pause': {
    request: () => ({ path: '/v1/queues/image/pause' }),
    owner: 200,
    stranger: 200,
  },
  'post /v1/queues/:name/resume': {
    request: () => ({ path: '/v1/queues/image/resume' }),
    owner: 200,
    stranger: 200,
  },
  'post /v1/queues/:name/drain': {
    request: () => ({ path: '/v1/queues/host/drain' }),
    owner: 200,
    stranger: 200,
  },
  'get /v1/queues/:name/autoscale': {
    request: () => ({ path: '/v1/queues/host/autoscale' }),
    owner: 200,
    stranger: 200,
  },
  'get /v1/workers': { request: () => ({ path: '/v1/workers' }), owner: 200, stranger: 200 },
  'post /v1/workers/:id/quiet': {
    request: () => ({ path: `/v1/workers/${workerId}/quiet` }),
    owner: 200,
    stranger: 200,
  },
  'post /v1/workers/:id/unquiet': {
    request: () => ({ path: `/v1/workers/${workerId}/unquiet` }),
    owner: 200,
    stranger: 200,
  },
  'post /v1/keys': {
    request: () => ({ path: '/v1/keys', json: { name: 'more', scopes: ['read'] } }),
    owner: 201,
    stranger: 'admins only',
  },
  'get /v1/keys': { request: () => ({ path: '/v1/keys' }), owner: 200, stranger: 'admins only' },
  'delete /v1/keys/:id': {
    request: (own) => ({ path: `/v1/keys/${own.key}` }),
    owner: 204,
    stranger: 'admins only',
  },
};

/** Those that need no key and know of no tenant, with a path. None gets here by accident. */
const publicPaths: Readonly<Record<string, string>> = {
  'get /livez': '/livez',
  'get /readyz': '/readyz',
  'get /openapi.json': '/openapi.json',
  'get /docs': '/docs',
  'get /docs.css': '/docs.css',
  'get /problems/:code': '/problems/internal',
  'get /': '/',
};

const nameOf = (route: Route): string => `${route.method} ${route.path}`;

let api: TestApi;
let own: Owned;
/** A key of alpha for every route's own scope, one of another tenant with all scopes, and an admin key of that tenant. */
let alpha: Readonly<Record<Scope, TestClient>>;
let beta: TestClient;
let betaAdmin: TestClient;

beforeAll(async () => {
  api = await createTestApi();
  const alphaWith = (scope: Scope) => api.client({ tenantId: 'alpha', scopes: [scope] });
  alpha = {
    submit: await alphaWith('submit'),
    read: await alphaWith('read'),
    operate: await alphaWith('operate'),
    admin: await alphaWith('admin'),
  };
  beta = await api.client({ tenantId: 'beta' });
  betaAdmin = await api.client({ tenantId: 'beta', scopes: ['admin'] });
  own = await makeThings();
});
afterAll(() => api.dispose());

async function makeThings(): Promise<Owned> {
  const job = { tenantId: 'alpha', input: { value: secret }, tags: [secret] };
  const endedJob = await insertJob(api.db, { ...job, state: 'succeeded' });
  await api.db.query('UPDATE jobs SET result = $2, fence = 1 WHERE id = $1', [
    endedJob,
    JSON.stringify({ value: secret }),
  ]);
  await appendLogs(api.db, { tenantId: 'alpha', jobId: endedJob, fence: 1, workerId: endedJob }, [
    { line: 0, at: new Date(), message: secret },
  ]);
  const made = (await (await alpha.admin.post('/v1/keys', { name: secret, scopes: ['read'] })).json()) as {
    id: string;
  };
  const batch = (await (
    await alpha.submit.post('/v1/jobs/batch', { jobs: [{ task: 'test.echo', input: { value: secret } }] })
  ).json()) as { id: string };
  return {
    batch: batch.id,
    endedJob,
    waitingJob: await insertJob(api.db, job),
    failedJob: await insertJob(api.db, { ...job, state: 'failed' }),
    spareJob: await insertJob(api.db, { ...job, state: 'succeeded' }),
    runningJob: await insertRunningJob(),
    file: await upload(),
    spareFile: await upload(),
    key: made.id,
    schedule: await schedule('of-alpha-1'),
    spareSchedule: await schedule('of-alpha-2'),
    workflow: await workflow(),
    failedWorkflow: await failedWorkflow(),
  };
}

async function schedule(key: string): Promise<string> {
  const json = { task: 'test.echo', input: { value: secret }, everyMs: 3_600_000, paused: true };
  const response = await alpha.submit.request('PUT', `/v1/schedules/${key}`, { json });
  expect(response.status).toBe(201);
  return key;
}

async function insertRunningJob(): Promise<string> {
  await registerWorker(
    api.db,
    { id: workerId, host: 'here', pid: 1, version: '0', slots: { host: 2 }, isolation: 'process' },
    3_600_000,
  );
  const id = await insertJob(api.db, { tenantId: 'alpha', state: 'active', startedAt: new Date() });
  await api.db.query('UPDATE jobs SET worker_id = $2 WHERE id = $1', [id, workerId]);
  return id;
}

async function workflow(): Promise<string> {
  const step = { task: 'test.echo', input: { value: secret } };
  const response = await alpha.submit.post('/v1/workflows', {
    steps: { [secret]: step, next: { ...step, after: [secret] } },
  });
  expect(response.status).toBe(202);
  return ((await response.json()) as { id: string }).id;
}

async function failedWorkflow(): Promise<string> {
  const id = await workflow();
  await api.db.query(
    `UPDATE jobs SET state = 'failed', finished_at = now(), dispatched_at = NULL WHERE workflow_id = $1 AND state = 'queued'`,
    [id],
  );
  return id;
}

async function upload(): Promise<string> {
  const headers = {
    'content-type': 'text/plain',
    'content-disposition': `attachment; filename="${secret}.txt"`,
  };
  const response = await alpha.submit.request('POST', '/v1/files', { body: secret, headers });
  expect(response.status).toBe(201);
  return ((await response.json()) as { id: string }).id;
}

/** Everything that alpha has, to see whether anybody changed it. */
async function snapshot(): Promise<unknown> {
  const tables = [
    'jobs',
    'files',
    'job_logs',
    'job_inputs',
    'idempotency_keys',
    'api_keys',
    'schedules',
    'schedule_files',
    'batches',
    'workflows',
    'workflow_steps',
    'job_dependencies',
    'job_input_refs',
  ];
  const rows = await Promise.all(
    tables.map(
      async (table) =>
        (
          await api.db.query(
            `SELECT to_jsonb(t) - 'last_used_at' AS row FROM ${table} t WHERE tenant_id = 'alpha' ORDER BY 1`,
          )
        ).rows,
    ),
  );
  return Object.fromEntries(tables.map((table, index) => [table, rows[index]]));
}

async function send(
  client: TestClient,
  route: Route,
  { path, ...request }: Request,
): Promise<{ status: number; text: string }> {
  const response = await client.request(route.method.toUpperCase(), path, request);
  return { status: response.status, text: await response.text() };
}

test('every route has a case, and every case a route', () => {
  const isPublic = (route: Route): boolean => route.scope === 'public';
  expect(new Set(Object.keys(cases))).toEqual(
    new Set(routes.filter((route) => !isPublic(route)).map(nameOf)),
  );
  expect(new Set(Object.keys(publicPaths))).toEqual(new Set(routes.filter(isPublic).map(nameOf)));
});

test.each(Object.entries(publicPaths))('%s needs no key', async (_name, path) => {
  const response = await fetch(api.url + path);
  expect(response.status).toBe(200);
  expect(await response.text()).not.toContain(secret);
});

const keyed = routes.flatMap((route) =>
  route.scope === 'public' ? [] : [{ name: nameOf(route), route, scope: route.scope }],
);

describe.each(keyed)('$name', ({ name, route, scope }) => {
  const getCase = (): Case => {
    const found = cases[name];
    if (found === undefined) throw new Error(`api/tenancy.test.ts has no case for ${name}.`);
    return found;
  };

  test('401 without a key', async () => {
    const { path, ...request } = getCase().request(own);
    const before = await snapshot();
    const response = await fetch(api.url + path, {
      method: route.method.toUpperCase(),
      ...(request.json !== undefined && { body: JSON.stringify(request.json) }),
      headers: { 'content-type': 'application/json' },
    });
    expect(response.status).toBe(401);
    expect(response.headers.get('www-authenticate')).toBe('Bearer realm="windlass"');
    expect(await response.text()).not.toContain(secret);
    expect(await snapshot()).toEqual(before);
  });

  test('403 with every scope but the one that is needed, also for the owner', async () => {
    const others = scopes.filter((other) => other !== scope && other !== 'admin');
    const limited = await api.client({ tenantId: 'alpha', scopes: others });
    const before = await snapshot();
    const { status, text } = await send(limited, route, getCase().request(own));
    expect(status).toBe(403);
    expect(text).toContain('"code":"forbidden"');
    expect(text).not.toContain(secret);
    expect(await snapshot()).toEqual(before);
  });

  test('nothing for another tenant, and all for the owner', async () => {
    const { request, owner, stranger } = getCase();
    const before = await snapshot();
    for (const client of stranger === 'admins only' ? [beta] : [beta, betaAdmin]) {
      const { status, text } = await send(client, route, request(own));
      expect(status).toBe(stranger === 'admins only' ? 403 : stranger);
      expect(text).not.toContain(secret);
      // A refusal may repeat the id that it was asked for; a success has no business to.
      if (status < 300) for (const id of Object.values(own)) expect(text).not.toContain(id);
    }
    expect(await snapshot()).toEqual(before);
    expect((await send(alpha[scope], route, request(own))).status).toBe(owner);
  });
});

test('an Idempotency-Key of one tenant means nothing to another', async () => {
  const headers = { 'idempotency-key': randomUUID() };
  const body = { task: 'test.noop', input: { n: 1 } };
  const ids = await Promise.all(
    [alpha.submit, beta].map(async (client) => {
      const response = await client.post('/v1/jobs', body, headers);
      expect(response.status).toBe(202);
      expect(response.headers.has('idempotency-replayed')).toBe(false);
      return ((await response.json()) as { id: string }).id;
    }),
  );
  expect(new Set(ids).size).toBe(2);
});
