/** Plants a bug in a copy of the tree, and lets the torture look for it there. */
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { harmless, type Edit, type Plant } from './plants.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const copied = ['api', 'shared', 'tasks', 'worker', 'scripts', 'test', 'package.json', 'tsconfig.json'];

/**
 * Into a copy of the tree, one edit after the other.
 * @throws Error when a text is not there exactly once: the code has changed, and the plant has to follow.
 */
export function applyEdits(plant: Plant, dir: string): void {
  for (const edit of plant.edits) {
    const path = join(dir, edit.file);
    writeFileSync(path, plantInto(readFileSync(path, 'utf8'), edit, plant.name));
  }
}

function plantInto(source: string, { file, text, by }: Edit, name: string): string {
  const count = source.split(text).length - 1;
  if (count === 1) return source.replace(text, () => by);
  throw new Error(
    `The planted bug "${name}" finds its text ${count} times in ${file} instead of once: ${text}`,
  );
}

export interface PlantReport {
  /** Did the torture report what the bug breaks? */
  readonly isFound: boolean;
  /** One problem of each invariant: that says enough about a bug that was planted. */
  readonly problems: readonly string[];
  readonly output: string;
}

export async function torturePlant(plant: Plant, seed: number): Promise<PlantReport> {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-plant-'));
  try {
    for (const name of copied) cpSync(join(root, name), join(dir, name), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'));
    applyEdits(plant, dir);
    const { faults, minutes = faults === harmless ? 0.2 : 0.4, rate = 12, kinds } = plant;
    const child = spawn(
      process.execPath,
      [
        'scripts/torture.ts',
        `--seed=${seed}`,
        `--minutes=${minutes}`,
        `--rate=${rate}`,
        `--faults=${faults.join('+')}`,
        ...(kinds === undefined ? [] : [`--kinds=${kinds.join('+')}`]),
        '--drain=60',
        '--workers=3',
      ],
      { cwd: dir, stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const [output, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
    const byInvariant = Map.groupBy(
      output.split('\n').filter((line) => /^I\d+/.test(line)),
      (line) => /^I\d+/.exec(line)?.[0] ?? '',
    );
    return {
      isFound: code === 1 && plant.breaks.some((invariant) => byInvariant.has(invariant)),
      problems: [...byInvariant.values()].flatMap(([first]) => first ?? []),
      output,
    };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
