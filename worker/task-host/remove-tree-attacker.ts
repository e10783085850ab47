/**
 * The task host that remove-tree.test.ts defends against: it keeps putting a link to `target` in the place of the directory
 * `<dir>/run/out`, and the directory back. Arguments: dir, target.
 */
import { mkdirSync, renameSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';

const [dir = '', target = ''] = process.argv.slice(2);
const out = `${dir}/run/out`;
const parked = `${dir}/parked`;
process.stdout.write('attacking\n');
for (;;) {
  attempt(() => mkdirSync(`${dir}/run`));
  attempt(() => mkdirSync(parked));
  attempt(() => writeFileSync(`${parked}/file`, ''));
  attempt(() => renameSync(parked, out));
  dwell();
  attempt(() => renameSync(out, parked));
  attempt(() => symlinkSync(target, out));
  dwell();
  attempt(() => unlinkSync(out));
}

/** Whatever was just deleted under us is made again in the next round. */
function attempt(action: () => void): void {
  try {
    action();
  } catch {}
}

function dwell(): void {
  const until = performance.now() + Math.random() * 0.3;
  while (performance.now() < until);
}
