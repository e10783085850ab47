import { pino, type Logger } from 'pino';

export type { Logger };

/**
 * The process's logger: one JSON line per event on stdout. `npm start` makes them readable.
 * Inputs, file contents, addresses and secrets are never logged; the redaction is the second line of defence.
 */
export function createLogger(options: { service: string; level: string }): Logger {
  // With a minimum of one byte nothing waits, but flush() does: shared/lifecycle.ts relies on it at the end.
  const destination = pino.destination({ dest: 1, sync: false, minLength: 1 });
  // pino calls this after a fatal line and at the exit, and sonic-boom 4.2 tries for ever when the reader is gone (it
  // takes EPIPE for a reason to wait). The lifecycle flushes instead, for a bounded time.
  destination.flushSync = () => {};
  return pino(
    {
      level: options.level,
      base: { service: options.service, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: {
        paths: [
          'authorization',
          '*.authorization',
          'cookie',
          '*.cookie',
          'key',
          '*.key',
          'password',
          '*.password',
        ],
        censor: '[redacted]',
      },
    },
    destination,
  );
}
