import type { Logger } from '#shared/log.ts';
import { pino } from 'pino';
import { PinoPretty } from 'pino-pretty';

/** Where all log lines of `npm start` come together. */
export interface LogOutput {
  /** One line of a process of ours: JSON, or whatever else it printed. */
  line(service: string, text: string): void;
  /** For pino: our own lines. */
  write(line: string): void;
  /** Lines are held back until here, so that what is printed first stands at the top. */
  open(): void;
}

const levels: Readonly<Record<string, number>> = {
  trace: 10,
  debug: 20,
  info: 30,
  warn: 40,
  error: 50,
  fatal: 60,
  silent: 100,
};

/**
 * Readable lines for a terminal, the JSON itself otherwise.
 *
 * The api writes the first admin key once, as a line of its log. `onAdminKey` gets the key, and the line goes nowhere: logs
 * are kept and passed around.
 */
export function createLogOutput(options: {
  level: string;
  isTerminal: boolean;
  out: NodeJS.WritableStream;
  onAdminKey: (key: string) => void;
}): LogOutput {
  const { out } = options;
  const levelMin = levels[options.level] ?? 30;
  const format = options.isTerminal ? prettyFormat() : (line: string) => `${line}\n`;
  let held: string[] | undefined = [];

  const print = (line: string): void => {
    if (held === undefined) out.write(format(line));
    else held.push(line);
  };

  return {
    line(service, text) {
      const entry = parse(text);
      if (entry === undefined) {
        if (levelMin <= 50)
          print(JSON.stringify({ level: 50, time: new Date().toISOString(), service, msg: text }));
        return;
      }
      if (typeof entry['adminKey'] === 'string') options.onAdminKey(entry['adminKey']);
      else if (Number(entry['level']) >= levelMin) print(text);
    },
    write: (line) => print(line.trimEnd()),
    open() {
      const lines = held ?? [];
      held = undefined;
      for (const line of lines) print(line);
    },
  };
}

/** Our own logger, one per service, in the form of the others (shared/log.ts). */
export function createOutputLogger(output: LogOutput, options: { service: string; level: string }): Logger {
  const base = { service: options.service, pid: process.pid };
  return pino({ level: options.level, base, timestamp: pino.stdTimeFunctions.isoTime }, output);
}

/** The level the processes are given: the line with the admin key is a warning and must not be left out. */
export function childLevel(level: string): string {
  return (levels[level] ?? 30) > 40 ? 'warn' : level;
}

function prettyFormat(): (line: string) => string {
  const format = PinoPretty.prettyFactory({
    colorize: PinoPretty.isColorSupported,
    translateTime: 'SYS:HH:MM:ss',
    ignore: 'pid,hostname,service,workerId',
    messageFormat: '{service}: {msg}',
    singleLine: true,
  });
  return (line) => format(line) ?? '';
}

function parse(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}
