/** A bare BullMQ worker whose jobs do nothing. Says how long the jobs after the warm-up took. */
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';

const [warmUp, total] = [Number(process.env['WARM_UP']), Number(process.env['TOTAL'])];
let done = 0;
let startMs = 0;

const worker = new Worker(
  'reference',
  async () => {
    done += 1;
    if (done === warmUp) startMs = performance.now();
    if (done === total)
      process.send?.({ perSecond: ((total - warmUp) / (performance.now() - startMs)) * 1_000 });
  },
  {
    connection: new Redis(process.env['REDIS_URL'] ?? '', { maxRetriesPerRequest: null }),
    concurrency: Number(process.env['CONCURRENCY']),
  },
);
process.send?.({ ready: true });
process.on('SIGTERM', () => void worker.close(true).finally(() => process.exit()));
