/**
 * Claimed runs that stand in line for a slot, ready to begin. The first of them are given to hosts that are still busy with a job of
 * the same tenant and queue: whose last run ends begins the next one at once, in the slot of that.
 *
 * They are given in the order of the line: while one cannot be given (another tenant's, for example) those behind it are not either, so it
 * gets the next slot. One that was given may be passed by those behind it, for as long as its host's run counts as short (host.ts).
 */
import type { Turn } from '#shared/queue/consumer.ts';
import type { Offer, RunOrder, TaskHost } from './task-host/host.ts';

export interface RunLine {
  join(run: RunInLine): Place;
  /** A run of this queue has begun in the host, and is followed: it may have the next one. */
  noteFollowed(host: TaskHost, queue: string): void;
}

export interface RunInLine {
  readonly queue: string;
  readonly order: RunOrder;
  /** It leaves when this is aborted. */
  readonly signal: AbortSignal;
  readonly turn: Turn;
}

export interface Place {
  /** Its directory is complete: a host may have it. */
  setReady(): void;
  /** No host gets it as its next one any more. @returns the offer to the one that has begun it, or is about to. */
  leave(): Offer | undefined;
}

interface Entry extends RunInLine {
  isReady: boolean;
  offer: Offer | undefined;
}

export function createRunLine(): RunLine {
  const lines = new Map<string, Entry[]>();
  const queueOf = new Map<TaskHost, string>();

  /** Gives to hosts what is first in line. */
  function give(queue: string): void {
    for (const entry of lines.get(queue) ?? []) {
      if (entry.offer !== undefined) continue;
      entry.offer = entry.isReady && entry.turn.mayBeGiven() ? offer(entry) : undefined;
      if (entry.offer === undefined) return;
    }
  }

  function offer({ queue, order, turn }: Entry): Offer | undefined {
    for (const [host, its] of queueOf) {
      if (its !== queue || host.tenantId !== order.tenantId) continue;
      const given = host.offer(order, { onBegun: turn.begin, onTakenBack: () => giveAgain(queue, order) });
      if (given !== undefined) return given;
    }
    return undefined;
  }

  function giveAgain(queue: string, order: RunOrder): void {
    const entry = lines.get(queue)?.find((other) => other.order === order);
    if (entry !== undefined) entry.offer = undefined;
    give(queue);
  }

  return {
    join(run) {
      const entry: Entry = { ...run, isReady: false, offer: undefined };
      const line = lines.get(run.queue) ?? [];
      lines.set(run.queue, line);
      const leave = () => {
        const begun = entry.offer?.withdraw() === false ? entry.offer : undefined;
        const index = line.indexOf(entry);
        if (index !== -1) {
          line.splice(index, 1);
          give(run.queue);
        }
        return begun;
      };
      if (!run.signal.aborted) {
        line.push(entry);
        run.signal.addEventListener('abort', leave, { once: true });
      }
      return {
        setReady() {
          entry.isReady = true;
          give(run.queue);
        },
        leave,
      };
    },
    noteFollowed(host, queue) {
      for (const known of queueOf.keys()) if (!known.isReusable()) queueOf.delete(known);
      queueOf.set(host, queue);
      give(queue);
    },
  };
}
