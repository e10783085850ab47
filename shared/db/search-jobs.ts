/**
 * Searching a tenant's jobs, newest first, by terms that all have to hold.
 *
 * Any term may hold for nothing at all, so one search could read every job there is. It reads a window of ids at a time
 * instead, and stops when its time is up: the answer then holds fewer jobs than asked for (perhaps none) and says
 * where to go on. An index per term was the alternative; each would be paid for by every accept and every state change.
 */
import { assertNever } from '../errors.ts';
import type { JobState } from '../domain/job.ts';
import type { JobRow } from './jobs.ts';
import { inTransaction, sqlState, type Db, type Queryable } from './pool.ts';

/** The values of one term are alternatives. */
export type JobTerm = { readonly isNegated: boolean } & (
  | { readonly type: 'state'; readonly states: readonly JobState[] }
  | { readonly type: 'task'; readonly names: readonly string[]; readonly prefixes: readonly string[] }
  | { readonly type: 'queue'; readonly names: readonly string[] }
  | { readonly type: 'tag'; readonly tags: readonly string[] }
  | { readonly type: 'schedule'; readonly keys: readonly string[] }
  | { readonly type: 'workflow'; readonly ids: readonly string[] }
  /** Items of steps, by the jobs of the steps. */
  | { readonly type: 'items'; readonly ids: readonly string[] }
  | { readonly type: 'id'; readonly ids: readonly string[] }
  | { readonly type: 'batch'; readonly ids: readonly string[] }
  /** Each alternative holds when all of its comparisons do. */
  | { readonly type: 'created'; readonly alternatives: readonly (readonly CreatedComparison[])[] }
  | { readonly type: 'duration'; readonly comparisons: readonly { operator: Operator; ms: number }[] }
  /** Somewhere in the error message or the input, in upper or lower case. */
  | { readonly type: 'text'; readonly texts: readonly string[] }
);

export type Operator = '<' | '<=' | '>' | '>=';

/** `created:>1h` compares the age, `created:>2026-01-01` the instant. */
export type CreatedComparison =
  | { readonly operator: Operator; readonly ageMs: number }
  | { readonly operator: Operator; readonly at: Date };

/** What a list shows of a job: all but what may be large. */
export type JobSummaryRow = Omit<JobRow, 'input' | 'result'>;

export interface JobPage {
  readonly rows: readonly JobSummaryRow[];
  /** Go on before this id; undefined when everything was looked at. */
  readonly next: string | undefined;
}

const columns = [
  'id',
  'tenant_id',
  'task',
  'queue',
  'state',
  'fence',
  'priority',
  'run_at',
  'options',
  'tags',
  'error',
  'progress',
  'attempts_max',
  'schedule_key',
  'batch_id',
  'workflow_id',
  'workflow_step',
  'each_index',
  'worker_id',
  'cancel_requested_at',
  'cancel_reason',
  'created_at',
  'started_at',
  'finished_at',
  'expires_at',
  'purged_at',
  'start_before',
  'retention_ms',
] as const satisfies (keyof JobSummaryRow)[];

/** Twenty texts in so many of the largest inputs take a few seconds. */
const textWindowRows = 50;
/** A window that was read faster than this is followed by one of twice as many jobs. */
const shortWindowMs = 100;
/**
 * Inputs and texts that are made for it (2,000 times the same letter in 256 KiB of it) take seconds for each job. A window that
 * takes longer than this is given up and tried again with a tenth of its jobs. One job alone always gets its time.
 */
const textWindowMs = 1_000;

export const newestId = 'ffffffff-ffff-ffff-ffff-ffffffffffff';

export interface Search {
  readonly terms: readonly JobTerm[];
  readonly limit: number;
  /** Only jobs with smaller ids, that is, older ones. */
  readonly before?: string;
  /** ISO 8601: only jobs made until then, and ages are meant as of then. Default: now. */
  readonly asOf?: string;
  /**
   * Most jobs looked at by one statement. Default 20,000, and 2,000 when inputs have to be read. Inputs may be a few bytes or
   * 256 KiB, so their windows begin small and follow the time that they take.
   */
  readonly windowRows?: number;
  /** No further window is begun after this time. Default 2,000. */
  readonly budgetMs?: number;
  /** Longest that reading the inputs of one window may take, if there are several in it. Default 1,000. */
  readonly windowMs?: number;
}

export function searchJobs(db: Db, tenantId: string, search: Search): Promise<JobPage> {
  return find(db, tenantId, search, columns);
}

/** As `searchJobs`, for whoever wants to know which jobs and no more. */
export async function searchJobIds(
  db: Db,
  tenantId: string,
  search: Search,
): Promise<{ ids: string[]; next: string | undefined }> {
  const { rows, next } = await find(db, tenantId, search, ['id']);
  return { ids: rows.map((row) => row.id), next };
}

type Row<Column extends keyof JobSummaryRow> = Pick<JobSummaryRow, Column | 'id'>;

async function find<Column extends keyof JobSummaryRow>(
  db: Db,
  tenantId: string,
  search: Search,
  columns: readonly Column[],
): Promise<{ rows: Row<Column>[]; next: string | undefined }> {
  const { terms, limit, asOf, budgetMs = 2_000, windowMs = textWindowMs } = search;
  const isText = terms.some((term) => term.type === 'text');
  const windowRowsMax = search.windowRows ?? (isText ? 2_000 : 20_000);
  let windowRows = isText ? Math.min(textWindowRows, windowRowsMax) : windowRowsMax;
  // Without terms every row is a hit, and ids are found by the index: neither can read much more than a page. A batch, and the items of
  // a step, are found by an index, too, and are not large enough to be read in parts unless inputs have to be read.
  let isUnbounded =
    terms.length === 0 ||
    terms.some(
      (term) =>
        !term.isNegated &&
        (term.type === 'id' || ((term.type === 'batch' || term.type === 'items') && !isText)),
    );
  const startedMs = performance.now();
  const rows: Row<Column>[] = [];
  let before = search.before ?? newestId;
  for (;;) {
    const windowStartedMs = performance.now();
    const end = isUnbounded ? undefined : await findWindowEnd(db, tenantId, before, windowRows);
    // One more than asked for tells whether there is another page.
    const wanted = limit + 1 - rows.length;
    const window = { terms, before, end, limit: wanted, isUnbounded, asOf };
    const found =
      isText && windowRows > 1
        ? await findWithin(db, tenantId, window, columns, windowMs)
        : await findInWindow(db, tenantId, window, columns);
    if (found === undefined) {
      windowRows = Math.max(1, Math.floor(windowRows / 10));
      isUnbounded = false;
      continue;
    }
    rows.push(...found);
    if (rows.length > limit) return { rows: rows.slice(0, limit), next: rows[limit - 1]?.id };
    if (end === undefined) return { rows, next: undefined };
    before = end;
    if (performance.now() - startedMs > budgetMs) return { rows, next: before };
    if (isText && performance.now() - windowStartedMs < shortWindowMs)
      windowRows = Math.min(2 * windowRows, windowRowsMax);
  }
}

/** The id of the last of `windowRows` jobs before `before`; undefined when there are fewer. Reads the index only. */
async function findWindowEnd(
  db: Queryable,
  tenantId: string,
  before: string,
  windowRows: number,
): Promise<string | undefined> {
  const { rows } = await db.query<{ id: string }>(
    'SELECT id FROM jobs WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC OFFSET $3 LIMIT 1',
    [tenantId, before, windowRows - 1],
  );
  return rows[0]?.id;
}

interface Window {
  readonly terms: readonly JobTerm[];
  readonly before: string;
  readonly end: string | undefined;
  readonly limit: number;
  readonly isUnbounded: boolean;
  readonly asOf: string | undefined;
}

/** @returns undefined when it took longer than `ms`. */
async function findWithin<Column extends keyof JobSummaryRow>(
  db: Db,
  tenantId: string,
  window: Window,
  columns: readonly Column[],
  ms: number,
): Promise<Row<Column>[] | undefined> {
  try {
    return await inTransaction(db, async (client) => {
      await client.query(`SELECT set_config('statement_timeout', $1, true)`, [String(ms)]);
      return findInWindow(client, tenantId, window, columns);
    });
  } catch (err) {
    if (sqlState(err) === '57014') return undefined;
    throw err;
  }
}

async function findInWindow<Column extends keyof JobSummaryRow>(
  db: Queryable,
  tenantId: string,
  window: Window,
  columns: readonly Column[],
): Promise<Row<Column>[]> {
  const values: unknown[] = [tenantId, window.before, window.end ?? null, window.limit];
  const param = (value: unknown) => `$${values.push(value)}`;
  const now = window.asOf === undefined ? 'now()' : `${param(window.asOf)}::timestamptz`;
  const conditions = window.terms.map((term) => {
    const condition =
      term.type === 'batch' && !term.isNegated && window.isUnbounded
        ? inBatchSql(param(term.ids))
        : toCondition(term, param, now);
    // A job without an error or a start does not fit the term, so it fits its negation.
    return term.isNegated ? `(${condition}) IS NOT TRUE` : `(${condition})`;
  });
  if (window.asOf !== undefined) conditions.push(`created_at <= ${now}`);
  const { rows } = await db.query<Row<Column>>(
    `SELECT ${columns.join(', ')} FROM jobs WHERE ${['tenant_id = $1', 'id < $2', '($3::uuid IS NULL OR id >= $3)', ...conditions].join(' AND ')}
     ORDER BY id DESC LIMIT $4`,
    values,
  );
  return rows;
}

type Param = (value: unknown) => string;

function toCondition(term: JobTerm, param: Param, now: string): string {
  switch (term.type) {
    case 'state':
      return `state = ANY(${param(term.states)}::job_state[])`;
    case 'task':
      return `task = ANY(${param(term.names)}::text[]) OR task LIKE ANY(${param(term.prefixes.map((prefix) => `${escapeLike(prefix)}%`))}::text[])`;
    case 'queue':
      return `queue = ANY(${param(term.names)}::text[])`;
    case 'tag':
      return `tags && ${param(term.tags)}::text[]`;
    case 'schedule':
      return `schedule_key = ANY(${param(term.keys)}::text[])`;
    case 'workflow':
      return `workflow_id = ANY(${param(term.ids)}::uuid[])`;
    case 'items':
      return inItemsSql(param(term.ids));
    case 'id':
      return `id = ANY(${param(term.ids)}::uuid[])`;
    case 'batch':
      return `batch_id = ANY(${param(term.ids)}::uuid[])`;
    case 'created':
      return term.alternatives
        .map((all) => `(${all.map((one) => compareCreated(one, param, now)).join(' AND ')})`)
        .join(' OR ');
    case 'duration':
      return term.comparisons
        .map(({ operator, ms }) => `${durationSql(now)} ${operator} ${param(ms)} * interval '1 ms'`)
        .join(' OR ');
    case 'text':
      return `error->>'message' ILIKE ANY(${param(term.texts.map(toPattern))}::text[]) OR input::text ILIKE ANY(${param(term.texts.map(toJsonPattern))}::text[])`;
    default:
      return assertNever(term);
  }
}

/** By the index of batches, first: with LIMIT, the planner likes to walk through all jobs of the tenant instead. */
function inBatchSql(ids: string): string {
  return `id = ANY(ARRAY(SELECT b.id FROM jobs b WHERE b.tenant_id = $1 AND b.batch_id = ANY(${ids}::uuid[])))`;
}

/** Also those that an earlier job of the step has made, before a retry. */
function inItemsSql(ids: string): string {
  return `id = ANY(ARRAY(SELECT e.job_id FROM each_items e WHERE e.tenant_id = $1 AND e.each_id = ANY(${ids}::uuid[])))`;
}

// How long the last run took, or has been taking; a job that waits for another attempt has no running time.
const durationSql = (now: string): string =>
  `(CASE WHEN finished_at IS NOT NULL THEN finished_at - started_at WHEN state = 'active' THEN ${now} - started_at END)`;

function compareCreated(comparison: CreatedComparison, param: Param, now: string): string {
  return 'at' in comparison
    ? `created_at ${comparison.operator} ${param(comparison.at)}::timestamptz`
    : `${now} - created_at ${comparison.operator} ${param(comparison.ageMs)} * interval '1 ms'`;
}

function toPattern(text: string): string {
  return `%${escapeLike(text)}%`;
}

/** Text inside JSON is written with JSON's escapes: a quote is found as `\"`. */
function toJsonPattern(text: string): string {
  return toPattern(JSON.stringify(text).slice(1, -1));
}

function escapeLike(text: string): string {
  return text.replaceAll(/[\\%_]/g, String.raw`\$&`);
}
