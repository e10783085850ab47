/**
 * `npm run torture -- [--seed N] [--minutes M]`: breaks a whole service of its own for a while and checks that every
 * guarantee held. With `--plant <name>` or `--plant all` it does so in a copy of the tree that has a bug, and must find it.
 * CONTRIBUTING.md says how to use it.
 */
import { parseArgs } from 'node:util';
import { torturePlant } from '../test/torture/plant.ts';
import { plants } from '../test/torture/plants.ts';
import { runTorture } from '../test/torture/run-torture.ts';
import { renderProblems, renderSummary } from '../test/torture/summary.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1_000_000)) },
    minutes: { type: 'string', default: '1' },
    rate: { type: 'string', default: '20' },
    apis: { type: 'string', default: '2' },
    workers: { type: 'string', default: '4' },
    drain: { type: 'string', default: '120' },
    faults: { type: 'string' },
    kinds: { type: 'string' },
    plant: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
});
const say = (text: string) => void process.stdout.write(`${text}\n`);

const seed = readNumber('seed');
const code = values.plant === undefined ? await torture() : await findPlanted(values.plant);
// What was broken on purpose may have left connections behind that nobody closes: they are no reason to stay.
process.stdout.write('', () => process.exit(code));

async function torture(): Promise<number> {
  const report = await runTorture({
    seed,
    minutes: readNumber('minutes'),
    rate: readNumber('rate'),
    apis: readNumber('apis'),
    workers: readNumber('workers'),
    drainMs: readNumber('drain') * 1_000,
    ...(values.faults !== undefined && { faults: values.faults.split('+') }),
    ...(values.kinds !== undefined && { kinds: values.kinds.split('+') }),
    isKept: values.keep,
    log: say,
  });
  say(`\n${renderSummary(report)}\n`);
  if (report.problems.length === 0) {
    say(`Every invariant held (seed ${seed}).${report.folder === undefined ? '' : ` ${report.folder}`}`);
    return 0;
  }
  const options = Object.entries(values).flatMap(([name, value]) =>
    typeof value === 'string' ? [`--${name} ${value.includes(' ') ? `'${value}'` : value}`] : [],
  );
  say(renderProblems(report, `npm run torture -- ${options.join(' ')}`));
  return 1;
}

async function findPlanted(name: string): Promise<number> {
  const names = name.split('+');
  const chosen = plants.filter((plant) => name === 'all' || names.includes(plant.name));
  if (name !== 'all' && chosen.length < names.length)
    return fail(
      `--plant takes all, or some of ${plants.map((plant) => plant.name).join(', ')}, joined by +.`,
    );
  let missed = 0;
  for (const plant of chosen) {
    const { isFound, problems, output } = await torturePlant(plant, seed);
    say(`${isFound ? 'found' : 'NOT FOUND'}: ${plant.name} (seed ${seed})`);
    for (const problem of problems) say(`    ${problem.slice(0, 200)}`);
    if (isFound) continue;
    missed += 1;
    say(output);
  }
  say(`${chosen.length - missed} of ${chosen.length} planted bugs were found.`);
  return missed === 0 ? 0 : 1;
}

function readNumber(name: 'seed' | 'minutes' | 'rate' | 'apis' | 'workers' | 'drain'): number {
  const value = Number(values[name]);
  return Number.isFinite(value) && value >= 0
    ? value
    : fail(`--${name} takes a number, and "${values[name]}" is none.`);
}

function fail(message: string): never {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
