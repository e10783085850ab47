import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { isAlive } from '#test/support/find-processes.ts';
import { createMark, killOrphansOfDeadWorkers, markVariable } from './processes.ts';

test('processes of dead workers are killed; those of living ones, and of workers in other containers, are left alone', async () => {
  const own = createMark('host');
  const [pid, , host, namespace] = own.split('/');
  const dead = `${pid}/1/${host}/${namespace}`;
  const marks = { own, dead, elsewhere: `${pid}/1/${host}/pid:[1]` };
  const children = Object.entries(marks).map(([name, mark]) => ({
    name,
    child: spawn('sleep', ['600'], { env: { PATH: '/usr/bin:/bin', [markVariable]: mark } }),
  }));
  await Promise.all(children.map(({ child }) => once(child, 'spawn')));
  killOrphansOfDeadWorkers();
  const orphan = children.find(({ name }) => name === 'dead')?.child;
  await once(orphan ?? expect.fail(), 'exit');
  expect(children.filter(({ child }) => isAlive(child.pid ?? 0)).map(({ name }) => name)).toEqual([
    'own',
    'elsewhere',
  ]);
  for (const { child } of children) child.kill('SIGKILL');
});
