/** What happened, as the clients saw it and as the nemesis did it: one JSON object a line, in the order of time. */
import { createWriteStream, mkdirSync } from 'node:fs';
import { once } from 'node:events';
import { dirname } from 'node:path';

import type { Footprint } from './check-leaks.ts';

/** What a client saw of a job in one answer. */
export interface SeenJob {
  readonly id: string;
  readonly state: string;
  readonly attempts: number;
  readonly finishedAt: string | null;
  readonly result: unknown;
  readonly error: { readonly code: string } | null;
}

export type HistoryEvent =
  /** A client wants this job; every try of it carries the tag and, if it has one, the key. */
  | {
      readonly type: 'wanted';
      readonly request: number;
      readonly kind: string;
      readonly tenant: string;
      readonly key: string | null;
      /** What the kind needs to know to judge the end. */
      readonly expected: unknown;
      /** Of what is accepted as a whole or not at all: the names of its parts. */
      readonly whole?: readonly string[];
    }
  | {
      readonly type: 'accepted';
      readonly request: number;
      readonly id: string;
      readonly status: number;
      readonly replayed: boolean;
      /** Of several jobs that belong together. */
      readonly part?: string;
    }
  /** No job was made: this one had the unique key at some time between these two (of the clock, in ms). */
  | {
      readonly type: 'duplicate';
      readonly request: number;
      readonly id: string;
      readonly sentAt: number;
      readonly answeredAt: number;
    }
  /** A clear no: nothing may come of it. */
  | { readonly type: 'refused'; readonly request: number; readonly status: number; readonly body: string }
  /** No answer, or one that leaves it open. */
  | { readonly type: 'unanswered'; readonly request: number; readonly reason: string }
  | { readonly type: 'cancel-answered'; readonly id: string; readonly status: number; readonly state: string }
  | ({ readonly type: 'seen' } & SeenJob)
  /** Something that no client should ever see. */
  | { readonly type: 'unexpected'; readonly what: string }
  | {
      readonly type: 'fault';
      readonly number: number;
      readonly name: string;
      readonly target: string;
      readonly ms: number;
    }
  | { readonly type: 'fault-over'; readonly number: number; readonly name: string }
  | {
      readonly type: 'fault-skipped';
      readonly number: number;
      readonly name: string;
      readonly target: string;
    }
  | {
      readonly type: 'process-ended';
      readonly name: string;
      readonly pid: number;
      readonly code: number | null;
      readonly wanted: boolean;
    }
  | { readonly type: 'process-ready'; readonly name: string; readonly pid: number }
  /** A small job went through from end to end: what recovery is measured by. `sentAt`: ms since the start. */
  | { readonly type: 'probe'; readonly sentAt: number }
  /** What a process holds at the end, and what it held when it had just begun. */
  | {
      readonly type: 'footprint';
      readonly name: string;
      readonly pid: number;
      readonly base: Footprint | undefined;
      readonly now: Footprint;
    }
  | { readonly type: 'phase'; readonly name: string };

/** `at`: ms since the start of the run. */
export type HistoryEntry = HistoryEvent & { readonly at: number };

export interface History {
  readonly entries: readonly HistoryEntry[];
  add(event: HistoryEvent): void;
  /** Milliseconds since the start. */
  now(): number;
  close(): Promise<void>;
}

/** @param file gets a line for each event, at once: it is complete also when the run is killed. */
export function createHistory(file: string): History {
  mkdirSync(dirname(file), { recursive: true });
  const stream = createWriteStream(file);
  const entries: HistoryEntry[] = [];
  const startedMs = performance.now();
  const now = () => Math.round(performance.now() - startedMs);
  return {
    entries,
    now,
    add(event) {
      const entry = { at: now(), ...event };
      entries.push(entry);
      stream.write(`${JSON.stringify(entry)}\n`);
    },
    async close() {
      stream.end();
      await once(stream, 'close');
    },
  };
}
