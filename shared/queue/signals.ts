/**
 * Wake-ups between processes over Redis pub/sub. They only save waiting: everything they announce is in Postgres,
 * and each listener also polls (ended jobs: 1 s; cancels: with the lease renewal, 1 s).
 */
import type { Redis } from 'ioredis';
import { isUuid } from '../ids.ts';

export interface SignalPublisher {
  /** These jobs reached a final state. */
  ended(jobIds: readonly string[]): void;
  /** The cancel of this running job was asked for. */
  cancel(jobId: string): void;
}

export function createSignalPublisher(options: { redis: Redis; prefix: string }): SignalPublisher {
  const { redis, prefix } = options;
  const publish = (channel: string, jobIds: readonly string[]) => {
    if (redis.status === 'ready' && jobIds.length > 0)
      redis.publish(`${prefix}:${channel}`, jobIds.join(',')).catch(() => {});
  };
  let ended: string[] = [];
  return {
    // A group of runs is settled together, so their ends are announced together: one command instead of hundreds.
    ended(jobIds) {
      if (ended.length === 0) {
        setImmediate(() => {
          publish('ended', ended);
          ended = [];
        });
      }
      ended.push(...jobIds);
    },
    cancel: (jobId) => publish('cancel', [jobId]),
  };
}

/** Calls `listener` with each job id that is announced on the channel. Survives reconnects. */
export async function listenForSignal(options: {
  redis: Redis;
  prefix: string;
  channel: 'ended' | 'cancel';
  listener: (jobId: string) => void;
}): Promise<void> {
  const channel = `${options.prefix}:${options.channel}`;
  options.redis.on('message', (from: string, message: string) => {
    if (from !== channel) return;
    for (const jobId of message.split(',')) if (isUuid(jobId)) options.listener(jobId);
  });
  await options.redis.subscribe(channel);
}
