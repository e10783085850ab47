/** sharp in plain loops, as many as there are cores: what the photos cost without a service around them. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';

sharp.concurrency(1);
sharp.cache(false);
const [warmUp, total] = [Number(process.env['WARM_UP']), Number(process.env['TOTAL'])];
const out = join(process.env['DATA_DIR'] ?? '', 'reference');
let begun = 0;
let done = 0;
let startMs = 0;

async function loop(number: number): Promise<void> {
  while (begun < total) {
    begun += 1;
    await sharp(process.env['PHOTO'] ?? '')
      .resize(320)
      .webp()
      .toFile(`${out}-${number}.webp`);
    done += 1;
    if (done === warmUp) startMs = performance.now();
  }
}
process.send?.({ ready: true });
await Promise.all(Array.from({ length: availableParallelism() }, (_, number) => loop(number)));
process.send?.({ perSecond: ((total - warmUp) / (performance.now() - startMs)) * 1_000 });
process.on('SIGTERM', () => process.exit());
