import pg from 'pg';
import { AppError } from '../errors.ts';
import { closeHalfOpen } from './half-open.ts';

/** Everything that runs SQL takes this: the pool, or a client inside `inTransaction`. */
export interface Queryable {
  query<Row extends pg.QueryResultRow>(
    query: pg.QueryConfig | string,
    values?: unknown[],
  ): Promise<pg.QueryResult<Row>>;
}

export type Db = pg.Pool;

export interface DbOptions {
  readonly url: string;
  /** Connections at most. */
  readonly size: number;
  /** Longest wait for a connection, in ms. */
  readonly timeoutMs: number;
  readonly name: string;
}

/**
 * A pool with limits on everything that could wait for ever: a connection, a lock, a statement, a dead peer.
 * int8 is read as a number: fences, sizes and counts stay far below 2^53.
 */
export function createDb(options: DbOptions): Db {
  return createPool(options, { jit: 'off' });
}

/**
 * A pool for the few named statements that run all the time: accept, feed, claim, settle. Each is planned once per
 * connection, and on tables that hold nothing at one moment and a million rows in the next: a plan that was made for an
 * empty table would read the full one from end to end until somebody analyzes it. All of them find their rows by an
 * index, so they are told to, and never to plan again (which cost a fifth of their time).
 */
export function createHotDb(options: DbOptions): Db {
  return createPool(options, { jit: 'off', ...hotSettings });
}

const hotSettings = {
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  // A bitmap scan also visits the entries of dead rows, of which a busy queue leaves thousands behind.
  enable_bitmapscan: 'off',
};

/** The same for the rest of one transaction on another pool. */
export async function useHotPlans(client: Queryable): Promise<void> {
  const settings = Object.entries(hotSettings).map(([name, value]) => `SET LOCAL ${name} = ${value}`);
  await client.query(settings.join('; '));
}

function createPool(options: DbOptions, settings: Readonly<Record<string, string>>): Db {
  const types = new pg.TypeOverrides();
  types.setTypeParser(pg.types.builtins.INT8, Number);
  types.setTypeParser(pg.types.builtins.TIMESTAMPTZ, createInstantParser());
  const pool = new pg.Pool({
    connectionString: options.url,
    max: options.size,
    connectionTimeoutMillis: options.timeoutMs,
    idleTimeoutMillis: 60_000,
    keepAlive: true,
    statement_timeout: 30_000,
    lock_timeout: 5_000,
    idle_in_transaction_session_timeout: 30_000,
    // Above statement_timeout: reached only when the server's answer never comes (half-open connection).
    query_timeout: 35_000,
    application_name: options.name,
    options: Object.entries(settings)
      .map(([name, value]) => `-c ${name}=${value}`)
      .join(' '),
    types,
  });
  // An idle connection that breaks is replaced at the next query; without a listener it would end the process.
  pool.on('error', () => {});
  // The same for one that is in use, and is cut off between two statements: the next one fails with it. From the first
  // moment on, because between the pool's giving it out and the taker's listening it may break, too.
  pool.on('connect', (client) => client.on('error', () => {}));
  closeHalfOpen(pool, options);
  return pool;
}

/** The rows of a group were mostly written at one instant, and reading one takes longer than the rest of its row. */
function createInstantParser(): (text: string) => unknown {
  const parse = pg.types.getTypeParser(pg.types.builtins.TIMESTAMPTZ);
  let lastText: string | undefined;
  let last: unknown;
  return (text) => {
    if (text !== lastText) {
      last = parse(text);
      lastText = text;
    }
    // A new one each time, because a Date can be changed. Infinity is a number.
    return last instanceof Date ? new Date(last) : last;
  };
}

/**
 * For the WITH of a statement (and its FROM, or it is not executed): this commit does not wait for the disk, a later one that
 * does takes it along. Only for what does no harm when the last moments before a crash of Postgres are forgotten.
 */
export const unsynced = `unsynced AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))`;

/**
 * The same, for the statement by which a transaction takes what all others leave to it: should this process stand still
 * between two of its statements, or be cut off from Postgres without Postgres hearing of it, others may go on after 8 s. All other
 * transactions may rest for 30 s. Longer than it takes to find a half-open connection (half-open.ts), because nobody can tell that of one
 * that Postgres has ended already.
 */
export const briefRest = `brief_rest AS MATERIALIZED (SELECT set_config('idle_in_transaction_session_timeout', '8000', true))`;

/**
 * Runs `work` in one transaction.
 * @throws AmbiguousCommitError when the connection died during COMMIT: it may or may not have happened.
 */
export async function inTransaction<Value>(
  db: Db,
  work: (client: pg.PoolClient) => Promise<Value>,
): Promise<Value> {
  const client = await db.connect();
  let failure: Error | undefined;
  try {
    await client.query('BEGIN');
    const value = await work(client);
    try {
      await client.query('COMMIT');
    } catch (err) {
      if (isConnectionLost(err)) throw new AmbiguousCommitError(err);
      throw err;
    }
    return value;
  } catch (err) {
    failure = err instanceof Error ? err : new Error(String(err));
    // Closing a lost connection rolls back, too; on one that answers nothing, ROLLBACK would wait as long again.
    if (!isLost(failure)) await client.query('ROLLBACK').catch(() => {});
    throw err;
  } finally {
    client.release(failure !== undefined && isLost(failure));
  }
}

function isLost(failure: Error): boolean {
  return failure instanceof AmbiguousCommitError || isConnectionLost(failure);
}

/** The connection was lost while a commit was under way: only reading the row can tell what happened. */
export class AmbiguousCommitError extends Error {
  override name = 'AmbiguousCommitError';
  constructor(cause: unknown) {
    super('The connection to Postgres was lost while a transaction was being committed.', { cause });
  }
}

export function sqlState(err: unknown): string | undefined {
  const code = err instanceof Error && 'code' in err ? err.code : undefined;
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : undefined;
}

/** SQLSTATE classes 21 to 23: the data of a row, or of two together, is at fault; another try gives the same answer. */
export function isDataError(err: unknown): boolean {
  return /^2[123]/.test(sqlState(err) ?? '');
}

/** Class 40 (deadlock, serialization) and lock_timeout (55P03): the transaction was rolled back and may be tried again. */
export function isTransactionRetryable(err: unknown): boolean {
  const state = sqlState(err) ?? '';
  return state.startsWith('40') || state === '55P03';
}

const networkErrors = new Set([
  'ECONNRESET',
  'ECONNREFUSED',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EHOSTUNREACH',
  'ENOENT',
  'EAI_AGAIN',
  // There is no descriptor left for a connection.
  'EMFILE',
  'ENFILE',
]);

/**
 * The server is away, going away or unreachable (class 08, 57P0x, 53xxx, socket errors, pool and query timeouts), or has closed the
 * connection because its transaction rested for too long (25P03).
 */
export function isConnectionLost(err: unknown): boolean {
  if (!(err instanceof Error)) return false;
  const state = sqlState(err);
  if (state !== undefined) return /^(08|57P|53|25P03)/.test(state);
  if ('code' in err && typeof err.code === 'string' && networkErrors.has(err.code)) return true;
  // pg reports these without a code.
  return /Connection terminated|connection timeout|timeout exceeded when trying to connect|Query read timeout|Client has encountered a connection error|not queryable|after calling end on the pool/i.test(
    err.message,
  );
}

/** Turns "Postgres is away" into the 503 that the contract promises; passes everything else on. */
export function toAppError(err: unknown): unknown {
  if (
    err instanceof AmbiguousCommitError ||
    isConnectionLost(err) ||
    isTransactionRetryable(err) ||
    sqlState(err) === '57014'
  ) {
    return new AppError(
      'unavailable',
      'The database does not answer right now. Try again; nothing was accepted unless you were told so.',
      {
        cause: err,
        retryAfterSeconds: 2,
      },
    );
  }
  return err;
}
