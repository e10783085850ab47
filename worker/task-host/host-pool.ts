/**
 * Warm task hosts. A host serves one tenant until it is replaced, so that nothing of one tenant's job (a file left
 * open, a patched global) can meet another's. Hosts are started when first needed, and one spare is kept warm.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { Logger } from '#shared/log.ts';
import type { Disk } from '../disk.ts';
import { createHostDir } from './scratch.ts';
import { spawnHost, type HostLimits, type TaskHost } from './host.ts';
import { openTokenPipe } from './token-pipe.ts';

export interface HostPool {
  /**
   * A free host for this tenant. There are never more than `size` and a spare one: who asks for more waits until one comes
   * back.
   */
  acquire(tenantId: string): Promise<TaskHost>;
  /**
   * Gives it back for the next run; a host that is spent is killed instead, and one that has begun its next run stays with that. Its
   * user id stays taken until `cleared`: what the run left is still being read.
   */
  release(host: TaskHost, cleared: Promise<void>): void;
  /** Lets it run nothing more: it is killed now, or when its run has ended. */
  retire(host: TaskHost): void;
  close(): Promise<void>;
}

export function createHostPool(options: {
  size: number;
  dir: string;
  disk: Pick<Disk, 'removeTree'>;
  limits: HostLimits;
  /** Hosts run as this user id plus their slot; undefined where ids cannot be changed. */
  uidBase: number | undefined;
  /** Directory of V8's compile cache (NODE_COMPILE_CACHE): hosts start faster with it. */
  compileCache: string | undefined;
  log: Logger;
}): HostPool {
  const { size, dir, disk, limits, uidBase, compileCache, log } = options;
  const freeSlots = Array.from({ length: size + 1 }, (_, index) => index);
  const idle: TaskHost[] = [];
  const slotOf = new Map<TaskHost, number>();
  /** Runs of a host with a user id of its own whose directories are not cleared yet. */
  const uncleared = new Map<TaskHost, Set<Promise<void>>>();
  const changing = new Set<Promise<void>>();
  /** Those who wait until a host comes back or ends. */
  const waiting: (() => void)[] = [];
  let isClosed = false;
  let isWarming = false;

  async function start(): Promise<TaskHost> {
    const slot = freeSlots.shift();
    if (slot === undefined)
      throw new Error('The pool of task hosts is full; this is a mistake in the accounting of slots.');
    try {
      const hostDir = join(dir, randomUUID());
      const uid = uidBase === undefined ? undefined : uidBase + slot;
      await createHostDir(hostDir, uid);
      const tokens = uid === undefined ? await openTokenPipe(hostDir) : undefined;
      const host = spawnHost({ dir: hostDir, limits, uid, compileCache, tokens, log });
      slotOf.set(host, slot);
      return host;
    } catch (err) {
      freeSlots.push(slot);
      wakeAll();
      throw err;
    }
  }

  function end(host: TaskHost): Promise<void> {
    const ended = host
      .kill()
      .then(() => Promise.all(uncleared.get(host) ?? new Set<Promise<void>>()))
      .then(async () => void (await disk.removeTree(host.dir)))
      .finally(() => {
        uncleared.delete(host);
        const slot = slotOf.get(host);
        if (slot !== undefined) freeSlots.push(slot);
        slotOf.delete(host);
        changing.delete(ended);
        wakeAll();
      });
    changing.add(ended);
    return ended;
  }

  /** Keeps one host warm for whoever comes next; one that is being started counts. */
  function warm(): void {
    if (isClosed || isWarming || freeSlots.length === 0 || idle.some((host) => host.tenantId === undefined))
      return;
    isWarming = true;
    const started = start()
      .then(
        (host) => {
          if (isClosed) void end(host);
          else idle.push(host);
        },
        (err: unknown) => log.warn({ err }, 'a spare task host could not be started'),
      )
      .finally(() => {
        isWarming = false;
        changing.delete(started);
        wakeAll();
      });
    changing.add(started);
  }

  function wakeAll(): void {
    for (const wake of waiting.splice(0)) wake();
  }

  function take(matches: (host: TaskHost) => boolean): TaskHost | undefined {
    const index = idle.findIndex(matches);
    return index === -1 ? undefined : idle.splice(index, 1)[0];
  }

  warm();
  return {
    async acquire(tenantId) {
      // A host may have died while idle (out of memory, an operator's kill).
      for (
        let dead = take((host) => !host.isReusable());
        dead !== undefined;
        dead = take((host) => !host.isReusable())
      )
        void end(dead);
      let host: TaskHost | undefined;
      while (host === undefined) {
        host =
          take((candidate) => candidate.tenantId === tenantId) ??
          take((candidate) => candidate.tenantId === undefined);
        if (host !== undefined) break;
        if (freeSlots.length > 0) host = await start();
        else {
          // All processes exist: an idle one of another tenant makes room. Otherwise all are busy, starting, or still being
          // cleaned up after their run (which nobody waits for), and whatever happens first is waited for.
          const other = take(() => true);
          await (other === undefined ? new Promise<void>((resolve) => waiting.push(resolve)) : end(other));
          if (isClosed) throw new Error('The worker is stopping.');
        }
      }
      host.tenantId = tenantId;
      warm();
      return host;
    },
    release(host, cleared) {
      // The next host may be another tenant's: with the same user id it could reach what is still there.
      if (host.uid !== undefined) {
        const runs = uncleared.get(host) ?? new Set();
        uncleared.set(host, runs.add(cleared));
        void cleared.then(() => runs.delete(cleared));
      }
      if (!host.leave()) return;
      if (isClosed || !host.isReusable()) {
        void end(host);
        return;
      }
      idle.push(host);
      wakeAll();
    },
    retire(host) {
      host.retire();
      if (take((candidate) => candidate === host) !== undefined) void end(host);
    },
    async close() {
      isClosed = true;
      await Promise.all([...slotOf.keys()].map((host) => end(host)));
      await Promise.all(changing);
    },
  };
}
