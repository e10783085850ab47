import { expect, test } from 'vitest';
import { createRunLine, type RunInLine } from './run-line.ts';
import type { Offer, TaskHost } from './task-host/host.ts';

test('the first in line are given to busy hosts of their tenant, one to each', () => {
  const { line, hosts, join } = setup({ acme: 2 });
  const places = ['a', 'b', 'c'].map((name) => join(name));
  for (const host of hosts) line.noteFollowed(host, 'q');
  expect(given(hosts)).toEqual([undefined, undefined]);
  for (const place of places) place.setReady();
  expect(given(hosts)).toEqual(['a', 'b']);
  hosts[0]?.beginNext();
  line.noteFollowed(hosts[0] as FakeHost, 'q');
  expect(given(hosts)).toEqual(['c', 'b']);
});

test('who cannot be given to a host holds up those behind', () => {
  const { line, hosts, join } = setup({ acme: 2 });
  for (const host of hosts) line.noteFollowed(host, 'q');
  const [unready, other] = [join('a'), join('b', { tenantId: 'umbrella' })];
  other.setReady();
  join('c').setReady();
  expect(given(hosts)).toEqual([undefined, undefined]);
  unready.setReady();
  expect(given(hosts)).toEqual(['a', undefined]);
  // It has got a slot: it is in nobody's way any more.
  expect(other.leave()).toBeUndefined();
  expect(given(hosts)).toEqual(['a', 'c']);
});

test('a host has the next run of its own queue only', () => {
  const { line, hosts, join } = setup({ acme: 1 });
  line.noteFollowed(hosts[0] as FakeHost, 'other');
  join('a').setReady();
  expect(given(hosts)).toEqual([undefined]);
  line.noteFollowed(hosts[0] as FakeHost, 'q');
  expect(given(hosts)).toEqual(['a']);
});

test('who leaves is taken back, and the next in line is given instead', () => {
  const { line, hosts, join } = setup({ acme: 1 });
  line.noteFollowed(hosts[0] as FakeHost, 'q');
  const [a, b] = [join('a'), join('b')];
  a.setReady();
  b.setReady();
  expect(a.leave()).toBeUndefined();
  expect(given(hosts)).toEqual(['b']);
  hosts[0]?.beginNext();
  expect(b.leave()?.host).toBe(hosts[0]);
  expect(b.leave()?.host, 'as often as it is asked').toBe(hosts[0]);
});

test('a run that is stopped is taken back at once', () => {
  const { line, hosts, join } = setup({ acme: 1 });
  line.noteFollowed(hosts[0] as FakeHost, 'q');
  const stop = new AbortController();
  const stopped = join('a', { signal: stop.signal });
  stopped.setReady();
  stop.abort('cancelled');
  expect(given(hosts)).toEqual([undefined]);
  expect(stopped.leave()).toBeUndefined();
  const late = join('b', { signal: AbortSignal.abort() });
  late.setReady();
  expect(given(hosts)).toEqual([undefined]);
});

test('what a host does not begin after all is given to the next one', () => {
  const { line, hosts, join } = setup({ acme: 2 });
  line.noteFollowed(hosts[0] as FakeHost, 'q');
  const a = join('a');
  a.setReady();
  hosts[0]?.giveBack();
  expect(given(hosts)).toEqual([undefined, undefined]);
  line.noteFollowed(hosts[1] as FakeHost, 'q');
  expect(given(hosts)).toEqual([undefined, 'a']);
});

test('while something waits that is not claimed, nobody passes it', () => {
  const { line, hosts, join, turn } = setup({ acme: 2 });
  for (const host of hosts) line.noteFollowed(host, 'q');
  join('a').setReady();
  turn.mayBeGiven = () => false;
  const b = join('b');
  b.setReady();
  expect(given(hosts)).toEqual(['a', undefined]);
  turn.mayBeGiven = () => true;
  b.setReady();
  expect(given(hosts)).toEqual(['a', 'b']);
});

interface FakeHost extends TaskHost {
  given: string | undefined;
  beginNext(): void;
  giveBack(): void;
}

/** Whom the hosts have as their next one. */
const given = (hosts: readonly FakeHost[]) => hosts.map((host) => host.given);

function setup(counts: Record<string, number>) {
  const line = createRunLine();
  const hosts = Object.entries(counts).flatMap(([tenantId, count]) =>
    Array.from({ length: count }, () => createFakeHost(tenantId)),
  );
  const turn = { begin() {}, mayBeGiven: () => true };
  const join = (name: string, some: { tenantId?: string; signal?: AbortSignal } = {}) => {
    const { tenantId = 'acme', signal = new AbortController().signal } = some;
    const order = { tenantId, runDir: name } as RunInLine['order'];
    return line.join({ queue: 'q', order, signal, turn });
  };
  return { line, hosts, join, turn };
}

/** It runs something, always, and can have a next one. */
function createFakeHost(tenantId: string): FakeHost {
  let takenBack = () => {};
  let isLong = false;
  const begun = new Set<string>();
  const host = {
    tenantId,
    given: undefined as string | undefined,
    isReusable: () => true,
    offer({ runDir }: { runDir: string }, on: { onTakenBack(): void }): Offer | undefined {
      if (isLong || host.given !== undefined) return undefined;
      host.given = runDir;
      takenBack = on.onTakenBack;
      return {
        host: host as unknown as TaskHost,
        withdraw() {
          if (begun.has(runDir)) return false;
          if (host.given === runDir) host.given = undefined;
          return true;
        },
        follow: () => Promise.reject(new Error('not asked for')),
      };
    },
    beginNext() {
      begun.add(host.given ?? '');
      host.given = undefined;
    },
    /** As one whose run takes long. */
    giveBack() {
      host.given = undefined;
      isLong = true;
      takenBack();
    },
  };
  return host as unknown as FakeHost;
}
