/** Photos through the whole service, beside sharp in a plain loop, and beside one that loses nothing. */
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { readDrainRate, waitUntilDrained, withDb } from '../drained.ts';
import { insertWaitingJobs } from '../insert-jobs.ts';
import { inTurns, runCount, type Measure } from '../measure.ts';
import { benchKey, startApi, startReference, startWorker } from '../processes.ts';

/** 3000 × 2000 pixels. */
const photo = fileURLToPath(new URL('../../examples/photos/alpine-lake.jpg', import.meta.url));

export const resize: Measure = {
  name: 'resize',
  async run(bench) {
    // The first seconds of a process are spent compiling; a service runs for weeks.
    const size = bench.isQuick ? { warmUp: 20, total: 80 } : { warmUp: 300, total: 1_200 };
    const slots = availableParallelism();
    const world = await bench.servers.makeWorld();
    const ours = async (): Promise<number> => {
      await world.empty();
      const api = await startApi(world);
      const answer = await fetch(`http://127.0.0.1:${api.ready.port}/v1/files`, {
        method: 'POST',
        headers: { authorization: `Bearer ${benchKey}`, 'content-type': 'image/jpeg' },
        body: await readFile(photo),
      });
      const { id } = (await answer.json()) as { id: string };
      await api.stop();
      return withDb(world, async (db) => {
        const input = { file: id, width: 320, format: 'webp' };
        await insertWaitingJobs(db, {
          task: 'image.resize',
          queue: 'image',
          count: size.total,
          input,
          inputFiles: [id],
        });
        const worker = await startWorker(world, `image:${slots}`);
        try {
          await waitUntilDrained(db);
        } finally {
          await worker.stop();
        }
        const perSecond = await readDrainRate(db, size);
        bench.log(`resize, ours: ${perSecond.toFixed(1)}/s`);
        return perSecond;
      });
    };
    const compare = (name: 'resize' | 'durable-resize') => async (): Promise<number> => {
      const process = await startReference(name, world, {
        DATABASE_URL: world.databaseUrl,
        PHOTO: photo,
        WARM_UP: String(size.warmUp),
        TOTAL: String(size.total),
      });
      const { perSecond } = await process.next<{ perSecond: number }>();
      await process.stop();
      bench.log(`${name}, reference: ${perSecond.toFixed(1)}/s`);
      return perSecond;
    };
    const runs = await inTurns(runCount(bench), {
      ours,
      reference: compare('resize'),
      durable: compare('durable-resize'),
    });
    const what = `image.resize of a 6 MP JPEG to 320 pixels, ${slots} at once`;
    return [
      {
        what,
        unit: 'images/s',
        ours: runs.ours,
        reference: runs.reference,
        referenceIs: 'sharp in a plain loop',
        reach: { atLeast: 0.85 },
      },
      {
        what: `The same, beside the least that loses nothing`,
        unit: 'images/s',
        ours: runs.ours,
        reference: runs.durable,
        referenceIs: 'claim in Postgres, sharp in a process of its own, synced output, settle',
        reach: { atLeast: 0.75 },
      },
    ];
  },
};
