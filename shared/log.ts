import { fstatSync } from 'node:fs';
import { pino, type Logger } from 'pino';

export type { Logger };

/** Lines that wait for a reader of stdout who does not keep up, in bytes; what comes on top is dropped, and counted. */
const waitingBytesMax = 4 * 1024 * 1024;

/**
 * The process's logger: one JSON line per event on stdout. `npm start` makes them readable.
 * Inputs, file contents, addresses and secrets are never logged; the redaction is the second line of defence.
 */
export function createLogger(options: { service: string; level: string }): Logger {
  unblockStdout();
  // With a minimum of one byte nothing waits, but flush() does: shared/lifecycle.ts relies on it at the end.
  const destination = pino.destination({ dest: 1, sync: false, minLength: 1, maxLength: waitingBytesMax });
  // pino calls this after a fatal line and at the exit, and sonic-boom 4.2 tries for ever when the reader is gone (it
  // takes EPIPE for a reason to wait). The lifecycle flushes instead, for a bounded time.
  destination.flushSync = () => {};
  const log = pino(
    {
      level: options.level,
      base: { service: options.service, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { log: redact },
    },
    destination,
  );
  let dropped = 0;
  destination.on('drop', () => {
    dropped += 1;
  });
  destination.on('drain', () => {
    if (dropped === 0) return;
    const lines = dropped;
    dropped = 0;
    log.warn({ lines }, 'log lines were dropped: whoever reads stdout did not keep up');
  });
  return log;
}

/**
 * Writing to a full pipe has to fail and be tried again, not to wait in one of the threads that do the work with files:
 * Node waits for those before it exits, so a process whose log nobody reads could not end. That is the case once
 * Node has opened its own stream on the pipe.
 */
function unblockStdout(): void {
  const stdout = fstatSync(1);
  if (stdout.isFIFO() || stdout.isSocket()) void process.stdout;
}

const secretNames = new Set(['authorization', 'cookie', 'key', 'password']);

/**
 * Hides fields with the names of secrets, at the top and one level below. pino's own redaction, which knows any path, took
 * a third of the time of a line.
 */
function redact(fields: Record<string, unknown>): Record<string, unknown> {
  let shown = fields;
  for (const [name, value] of Object.entries(fields)) {
    const safe = secretNames.has(name) ? '[redacted]' : redactInside(value);
    if (safe !== value) shown = { ...shown, [name]: safe };
  }
  return shown;
}

/** Errors are left to pino's serializer, which shows their message, stack and code. */
function redactInside(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Error)
    return value;
  const hidden = Object.keys(value).filter((name) => secretNames.has(name));
  if (hidden.length === 0) return value;
  return { ...value, ...Object.fromEntries(hidden.map((name) => [name, '[redacted]'])) };
}
