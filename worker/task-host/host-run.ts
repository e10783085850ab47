import { randomUUID } from 'node:crypto';
import type { FromHost } from './protocol.ts';

export interface RunIo {
  /** Aborting it ends the run within 3 s, whatever the handler does. */
  readonly signal: AbortSignal;
  readonly softSignal: AbortSignal;
  onProgress(percent: number, message: string | undefined): void;
  onLog(message: string): void;
}

export type RunEnd = Extract<FromHost, { type: 'returned' | 'threw' }>;
type RunSaid = Extract<FromHost, { type: 'progress' | 'log' }> | RunEnd;

/** A run in a host. Somebody may listen only when it has begun: what it said until then is kept. */
export interface HostRun {
  readonly id: string;
  readonly ended: Promise<RunEnd>;
  hear(message: RunSaid): void;
  listen(io: Pick<RunIo, 'onProgress' | 'onLog'>): void;
}

/** Of a run that nobody listens to yet; further ones are lost. */
const keptLogsMax = 100;

export function createHostRun(): HostRun {
  const { promise, resolve } = Promise.withResolvers<RunEnd>();
  let progress: Extract<FromHost, { type: 'progress' }> | undefined;
  let logs: Extract<FromHost, { type: 'log' }>[] = [];
  let io: Pick<RunIo, 'onProgress' | 'onLog'> | undefined;

  function hear(message: RunSaid): void {
    if (message.type === 'returned' || message.type === 'threw') resolve(message);
    else if (message.type === 'progress') {
      if (io === undefined) progress = message;
      else io.onProgress(message.percent, message.message);
    } else if (io !== undefined) io.onLog(message.message);
    else if (logs.length < keptLogsMax) logs.push(message);
  }

  return {
    id: randomUUID(),
    ended: promise,
    hear,
    listen(to) {
      io = to;
      for (const message of [...logs, ...(progress === undefined ? [] : [progress])]) hear(message);
      logs = [];
    },
  };
}
