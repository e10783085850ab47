/** The process of durable-resize.ts in which sharp runs. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';

sharp.concurrency(1);
sharp.cache(false);

process.on('message', (run: string) => {
  void sharp(join(run, 'in'))
    .resize(320)
    .webp()
    .toBuffer({ resolveWithObject: true })
    .then(async ({ data, info }) => {
      await writeFile(join(run, 'out'), data);
      process.send?.({ width: info.width, height: info.height });
    });
});
process.on('disconnect', () => process.exit());
process.send?.('ready');
