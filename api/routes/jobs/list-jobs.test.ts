import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { searchJobs } from '#shared/db/search-jobs.ts';
import { jobSummarySchema } from '#api/present-job-summary.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob, type InsertedJob } from '#test/support/insert-job.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client({ scopes: ['read'] });
});
afterAll(() => api.dispose());

interface Page {
  readonly data: { id: string; state: string; [key: string]: unknown }[];
  readonly nextCursor: string | null;
}

async function search(query: Record<string, string>, by: TestClient = client): Promise<Page> {
  const response = await by.get(`/v1/jobs?${new URLSearchParams(query).toString()}`);
  expect(response.status).toBe(200);
  return (await response.json()) as Page;
}

/** Ids of the hits of a query that is narrowed down to the jobs of one test. */
async function hits(tag: string, q: string): Promise<string[]> {
  return (await search({ q: `tag:${tag} ${q}`, limit: '100' })).data.map((job) => job.id);
}

describe('200', () => {
  test('the newest job comes first, as its schema says, without what may be large', async () => {
    const older = await insertJob(api.db, { tags: ['order'] });
    const newer = await insertJob(api.db, {
      tags: ['order'],
      state: 'failed',
      error: { code: 'task-failed', message: 'no', retryable: true },
    });
    const page = await search({ q: 'tag:order' });
    expect(page.data.map((job) => job.id)).toEqual([newer, older]);
    expect(page.nextCursor).toBeNull();
    expect(page.data[0]).toMatchObject({
      state: 'failed',
      error: { code: 'task-failed', message: 'no' },
      links: { self: `/v1/jobs/${newer}` },
    });
    for (const job of page.data) expect(jobSummarySchema.strict().safeParse(job).error).toBeUndefined();
  });

  test('each term finds what it says, and its negation the rest', async () => {
    const now = Date.now();
    const ago = (ms: number) => new Date(now - ms);
    const minute = 60_000;
    const jobs = {
      failed: {
        task: 'image.resize',
        queue: 'image',
        state: 'failed',
        error: { code: 'task-failed', message: 'Connection RESET by 100% peer', retryable: true },
        createdAt: ago(120 * minute),
        startedAt: ago(119 * minute),
        finishedAt: ago(118 * minute),
      },
      fast: {
        task: 'image.crop',
        queue: 'image',
        state: 'succeeded',
        input: { text: 'He said "hi_there"', unit: 'µm', path: 'a\\b' },
        createdAt: ago(30 * minute),
        startedAt: ago(20 * minute),
        finishedAt: new Date(now - 20 * minute + 500),
      },
      running: {
        task: 'data.query',
        queue: 'data',
        state: 'active',
        createdAt: ago(10 * minute),
        startedAt: ago(10 * minute),
      },
      waiting: {
        task: 'image',
        queue: 'data',
        state: 'queued',
        createdAt: new Date('2026-01-31T23:59:59.5Z'),
        tags: ['late'],
      },
    } satisfies Record<string, InsertedJob>;
    type Name = keyof typeof jobs;
    const ids = new Map<string, Name>();
    for (const [name, job] of Object.entries(jobs)) {
      const { tags = [] } = job as InsertedJob;
      ids.set(await insertJob(api.db, { ...job, tags: ['terms', ...tags] }), name as Name);
    }
    const idOf = (name: Name) => [...ids.entries()].find(([, value]) => value === name)?.[0] ?? '';

    const cases: [string, Name[]][] = [
      ['state:failed', ['failed']],
      ['state:failed,active', ['failed', 'running']],
      ['task:image.*', ['failed', 'fast']],
      ['task:image', ['waiting']],
      ['task:image,data.*', ['running', 'waiting']],
      ['task:im_ge.*', []],
      ['queue:image', ['failed', 'fast']],
      ['tag:late', ['waiting']],
      ['tag:late,unknown', ['waiting']],
      ['tag:unknown', []],
      [`id:${idOf('fast')},${idOf('running')}`, ['fast', 'running']],
      ['created:>1h', ['failed', 'waiting']],
      ['created:<1h', ['fast', 'running']],
      [
        'created:<1h,>300d',
        ['fast', 'running', ...(now > Date.parse('2026-11-28') ? (['waiting'] as const) : [])],
      ],
      ['created:2026-01-31', ['waiting']],
      ['created:<=2026-01-31', ['waiting']],
      ['created:<2026-01-31', []],
      ['created:>2026-01-31', ['failed', 'fast', 'running']],
      ['created:>=2026-01-31', ['failed', 'fast', 'running', 'waiting']],
      ['created:<2026-02-01T00:59:59.6+01:00', ['waiting']],
      ['duration:>30s', ['failed', 'running']],
      ['duration:<1s', ['fast']],
      ['duration:<1s,>5m', ['fast', 'running']],
      ['reset', ['failed']],
      ['100%', ['failed']],
      ['10_', []],
      ['"said \\"hi_there"', ['fast']],
      ['µM', ['fast']],
      ['"a\\\\b"', ['fast']],
      ['reset,said', ['failed', 'fast']],
      ['queue:image state:succeeded', ['fast']],
    ];
    for (const [q, expected] of cases) {
      const found = await hits('terms', q);
      expect({ q, names: new Set(found.map((id) => ids.get(id))) }).toEqual({ q, names: new Set(expected) });
      if (q.includes(' ')) continue;
      const others = await hits('terms', `-${q}`);
      expect({ q, all: new Set([...found, ...others]) }).toEqual({ q, all: new Set(ids.keys()) });
      expect(found.length + others.length).toBe(ids.size);
    }
  });

  test('pages follow each other without a gap, also while new jobs arrive', async () => {
    const ids: string[] = [];
    for (let index = 0; index < 7; index += 1) ids.unshift(await insertJob(api.db, { tags: ['pages'] }));
    const seen: string[] = [];
    let cursor: string | null = '';
    let pages = 0;
    while (cursor !== null) {
      const page: Page = await search({ q: 'tag:pages', limit: '3', ...(cursor !== '' && { cursor }) });
      seen.push(...page.data.map((job) => job.id));
      cursor = page.nextCursor;
      pages += 1;
      await insertJob(api.db, { tags: ['pages'] });
    }
    expect(seen).toEqual(ids);
    expect(pages).toBe(3);
  });

  test('a page that is exactly full is the last one when nothing is left', async () => {
    for (let index = 0; index < 3; index += 1) await insertJob(api.db, { tags: ['full'] });
    const page = await search({ q: 'tag:full', limit: '3' });
    expect(page.data).toHaveLength(3);
    expect(page.nextCursor).toBeNull();
  });

  test('a search that takes too long answers with a place to go on, and finds all in the end', async () => {
    const ids: string[] = [];
    for (let index = 0; index < 5; index += 1) {
      ids.unshift(await insertJob(api.db, { tenantId: 'default', tags: ['rare'] }));
      for (let other = 0; other < 3; other += 1) await insertJob(api.db);
    }
    const terms = [{ type: 'tag', isNegated: false, tags: ['rare'] }] as const;
    const seen: string[] = [];
    let next: string | undefined;
    let pages = 0;
    do {
      // A window of two rows and no time: each call looks at two jobs.
      const page = await searchJobs(api.db, 'default', {
        terms,
        limit: 20,
        windowRows: 2,
        budgetMs: -1,
        ...(next !== undefined && { before: next }),
      });
      seen.push(...page.rows.map((row) => row.id));
      next = page.next;
      pages += 1;
    } while (next !== undefined);
    expect(seen).toEqual(ids);
    expect(pages).toBeGreaterThan(10);
    expect(
      (await searchJobs(api.db, 'default', { terms, limit: 20, windowRows: 2 })).rows.map((row) => row.id),
    ).toEqual(ids);
  });

  test('a text is looked for in a few inputs first, as each may be large', async () => {
    const tenantId = 'large-inputs';
    await api.client({ tenantId });
    const inserted: string[] = [];
    for (let count = 0; count < 60; count += 1) {
      inserted.push(await insertJob(api.db, { tenantId, input: { text: 'needle' } }));
    }
    const terms = [{ type: 'text', isNegated: false, texts: ['needle'] }] as const;
    const first = await searchJobs(api.db, tenantId, { terms, limit: 100, budgetMs: -1 });
    expect(first.rows).toHaveLength(50);
    const all = await searchJobs(api.db, tenantId, { terms, limit: 100 });
    expect(all.rows.map((row) => row.id)).toEqual(inserted.toReversed());
  });

  test.each(['', 'id'])(
    'inputs and texts that are made to take long cost a search its time, and not its answer (%s)',
    async (narrowedBy) => {
      const tenantId = `slow-inputs${narrowedBy}`;
      await api.client({ tenantId });
      const inserted: string[] = [];
      // Each of so many letters is the beginning of the text, until its end.
      for (let count = 0; count < 20; count += 1) {
        inserted.push(
          await insertJob(api.db, {
            tenantId,
            input: { text: `${'a'.repeat(20_000)}${count === 3 ? 'b' : ''}` },
          }),
        );
      }
      const page = await searchJobs(api.db, tenantId, {
        terms: [
          { type: 'text', isNegated: false, texts: [`${'a'.repeat(1_000)}b`] },
          ...(narrowedBy === 'id' ? [{ type: 'id', isNegated: false, ids: inserted } as const] : []),
        ],
        limit: 20,
        budgetMs: 60_000,
        // Too short for all of them, whatever the machine.
        windowMs: 1,
      });
      expect(page).toEqual({ rows: [expect.objectContaining({ id: inserted[3] })], next: undefined });
    },
  );

  test('jobs of other tenants are never found', async () => {
    const stranger = await api.client({ tenantId: 'stranger', scopes: ['read'] });
    const id = await insertJob(api.db, { tags: ['mine'], input: { text: 'needle-7' } });
    expect(await hits('mine', 'needle-7')).toEqual([id]);
    for (const q of ['', 'tag:mine', 'needle-7', `id:${id}`, '-state:failed', `-id:${id}`]) {
      expect((await search({ q }, stranger)).data).toEqual([]);
    }
    const next = (await search({ limit: '1' })).nextCursor ?? '';
    expect((await search({ limit: '1', cursor: next }, stranger)).data).toEqual([]);
  });
});

describe('400', () => {
  test('an unknown key is answered with the nearest one', async () => {
    const response = await client.get('/v1/jobs?q=stat%3Afailed');
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({
      code: 'bad-request',
      detail:
        'Query parameter q: unknown key "stat:", did you mean "state:"?; to look for this very text, put it in quotes.',
      errors: [{ pointer: '/q' }],
    });
  });

  test.each(['limit=0', 'limit=101', 'limit=x', 'page=2', `q=${'a'.repeat(2_001)}`, 'q=%00'])(
    '?%s is refused',
    async (query) => {
      const response = await client.get(`/v1/jobs?${query}`);
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ code: 'bad-request' });
    },
  );

  test('a cursor of another query, and one that was made up, are refused', async () => {
    for (let index = 0; index < 2; index += 1) await insertJob(api.db, { tags: ['cursor'] });
    const { nextCursor } = await search({ q: 'tag:cursor', limit: '1' });
    expect(nextCursor).not.toBeNull();
    for (const [q, cursor] of [
      ['tag:other', nextCursor],
      ['tag:cursor', `${nextCursor}!`],
      ['tag:cursor', 'x'],
      ['tag:cursor', ''],
    ]) {
      const response = await client.get(
        `/v1/jobs?${new URLSearchParams({ q: q ?? '', cursor: cursor ?? '' }).toString()}`,
      );
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ code: 'invalid-cursor' });
    }
  });
});
