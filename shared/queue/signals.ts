/**
 * Wake-ups between processes over Redis pub/sub. They only save waiting: everything they announce is in Postgres,
 * and each listener also polls (ended jobs: 1 s; cancels: with the lease renewal, 1 s).
 */
import type { Redis } from 'ioredis';
import { isUuid } from '../ids.ts';
import type { Logger } from '../log.ts';

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

/**
 * Calls `listener` with each job id that is announced on the channel. Survives reconnects: it subscribes with every new
 * connection, by itself, because a subscription that ioredis renews (`autoResubscribe`) and that Redis refuses, or whose
 * connection is closed meanwhile, is a rejection that nobody can handle.
 */
export function listenForSignal(options: {
  redis: Redis;
  prefix: string;
  channel: 'ended' | 'cancel';
  listener: (jobId: string) => void;
  log: Logger;
}): void {
  const { redis, listener, log } = options;
  const channel = `${options.prefix}:${options.channel}`;
  redis.on('message', (from: string, message: string) => {
    if (from !== channel) return;
    for (const jobId of message.split(',')) if (isUuid(jobId)) listener(jobId);
  });
  const subscribe = () => {
    redis.subscribe(channel).catch((err: Error) => {
      // Another connection follows, or none is wanted any more.
      if (redis.status === 'ready')
        log.warn({ channel, err: err.message }, 'redis refused the subscription: news come by polling alone');
    });
  };
  if (redis.status === 'ready') subscribe();
  redis.on('ready', subscribe);
}
