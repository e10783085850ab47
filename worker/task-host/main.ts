/**
 * A task host: the child process that runs handlers, one job at a time. It has no connection to Postgres or Redis, a
 * stripped environment, resource limits, and a directory per run; the worker kills it with everything it started.
 */
import { ChildProcess } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { registerTaskImports } from '#shared/tasks/load-tasks.ts';
import { cleanText } from '#shared/domain/text.ts';
import {
  createLineSplitter,
  documentBytesMax,
  lineBytesMax,
  type FromHost,
  type ResultDocument,
  type RunMessage,
  type ToHost,
} from './protocol.ts';
import { createProgressSender } from './progress-sender.ts';
import { describeError, runHandler, type HandlerEnd } from './run-handler.ts';
import { readToken, tokenFd } from './token-pipe.ts';

process.umask(0o007);
registerTaskImports();

const socket = new Socket({ fd: 3 });
let current: { run: string; hard: AbortController; soft: AbortController } | undefined;
let next: RunMessage | undefined;
/** Of a run whose message is still on its way: the one before was taken back. */
let token: string | undefined;

// The worker is gone: nobody wants the result any more.
socket.on('close', () => process.exit(0));
socket.on('error', () => process.exit(0));
socket.on(
  'data',
  createLineSplitter((line) => receive(JSON.parse(line) as ToHost)),
);

// The worker sends SIGTERM after the AbortSignal was ignored. A handler that only waits gets no further chance.
process.on('SIGTERM', () => process.exit(143));

let hasSpawned = false;
trackSpawns();
send({ type: 'ready' });

function receive(message: ToHost): void {
  if (message.type === 'run') {
    next = undefined;
    void run(message);
  } else if (message.type === 'next') {
    next = message;
    if (current === undefined) beginNext();
  } else if (message.run === current?.run) {
    if (message.type === 'abort') current.hard.abort(new Error(message.reason));
    else current.soft.abort(new Error('The soft time limit has passed.'));
  }
}

/** Not after a run that started processes: the worker kills what it left, and could not tell whose they are. */
function beginNext(): void {
  if (next === undefined || (hasSpawned && token === undefined)) return;
  const message = next;
  next = undefined;
  token ??= readToken(tokenFd);
  if (token !== message.run) return;
  token = undefined;
  send({ type: 'began', run: message.run });
  void run(message);
}

async function run(message: RunMessage): Promise<void> {
  const [hard, soft] = [new AbortController(), new AbortController()];
  current = { run: message.run, hard, soft };
  hasSpawned = false;
  const progress = createProgressSender((percent, text) =>
    send({
      type: 'progress',
      run: message.run,
      // Done of all is 0 of 0 now and then. JSON knows no NaN, so it would not be part of the protocol.
      percent: Number.isFinite(percent) ? percent : 0,
      ...(text !== undefined && { message: cleanText(text, 1_000) }),
    }),
  );
  const end = await runHandler(message, {
    signal: hard.signal,
    softSignal: soft.signal,
    progress: progress.report,
    log: (text) => send({ type: 'log', run: message.run, message: cleanText(text, 1_000) }),
    scratchDir() {
      const dir = join(message.runDir, 'tmp');
      mkdirSync(dir, { recursive: true });
      return dir;
    },
    outputPath: (id) => join(message.runDir, id),
  });
  const delivered = end.type === 'returned' ? await deliver(message.runDir, end) : end;
  // All in one go: what it reads, and each waking, costs the worker.
  socket.cork();
  progress.close();
  send({ ...delivered, run: message.run, rssBytes: process.memoryUsage.rss(), hasSpawned });
  current = undefined;
  beginNext();
  socket.uncork();
}

type Delivered =
  | { readonly type: 'returned'; readonly document?: ResultDocument }
  | Extract<HandlerEnd, { type: 'threw' }>;

/** The worker reads a long document from a file, whose size it can look at first. */
async function deliver(runDir: string, end: Extract<HandlerEnd, { type: 'returned' }>): Promise<Delivered> {
  try {
    // A function, for example. Left out, it would not be part of the protocol.
    const result = JSON.stringify(end.result) as string | undefined;
    if (result === undefined) throw new TypeError('The result is nothing that JSON has a form for.');
    const text = `{"result":${result},"outputs":${JSON.stringify(end.outputs)}}`;
    if (Buffer.byteLength(text) <= documentBytesMax) return { type: 'returned', document: JSON.parse(text) };
    await writeFile(join(runDir, 'result.json'), text);
    return { type: 'returned' };
  } catch (err) {
    // Circular structures and BigInts cannot be written as JSON; that is the handler's mistake.
    return err instanceof TypeError
      ? { type: 'threw', kind: 'bad-output', message: err.message }
      : describeError(err);
  }
}

function send(message: FromHost): void {
  const line = JSON.stringify(message);
  if (Buffer.byteLength(line) < lineBytesMax) socket.write(`${line}\n`);
}

/** Handlers that start processes may leave some behind; the worker looks for them only then, because looking is slow. */
function trackSpawns(): void {
  const prototype = ChildProcess.prototype as unknown as { spawn: (...args: unknown[]) => unknown };
  const original = prototype.spawn;
  prototype.spawn = function spawn(this: ChildProcess, ...args: unknown[]): unknown {
    hasSpawned = true;
    return original.apply(this, args);
  };
}
