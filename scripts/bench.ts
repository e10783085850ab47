/**
 * `npm run bench [-- names of measures] [--quick] [--runs 5] [--celery]`: measures the service on this machine, each figure beside a reference
 * of the same minute. Results of a full run are written to bench/results/.
 */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { extraMeasures, measures as standardMeasures } from '../bench/measures/index.ts';
import type { Figure } from '../bench/measure.ts';
import { renderTable, writeReport } from '../bench/report.ts';
import { startServers, type BenchServers } from '../bench/servers.ts';

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    runs: { type: 'string', default: '5' },
    celery: { type: 'boolean', default: false },
  },
});
const measures = values.celery ? [...standardMeasures, ...extraMeasures] : standardMeasures;
const unknown = positionals.filter((name) => !measures.some((measure) => measure.name === name));
if (unknown.length > 0) {
  process.stderr.write(
    `There is no measure ${unknown.join(', ')}. Known: ${measures.map((measure) => measure.name).join(', ')}.\n`,
  );
  process.exit(1);
}
const runs = Math.max(1, Number(values.runs) || 5);
const chosen = measures.filter((measure) => positionals.length === 0 || positionals.includes(measure.name));
const log = (line: string) => void process.stderr.write(`${line}\n`);

let servers: BenchServers | undefined;
// Ctrl-C leaves no server and no directory behind.
process.once('SIGINT', () => void Promise.resolve(servers?.stop()).finally(() => process.exit(130)));
const figures: Figure[] = [];
let versions: BenchServers['versions'] | undefined;
for (const measure of chosen) {
  // What one measure leaves behind (tables to be vacuumed, gigabytes to be written out) is not the next one's.
  execFileSync('sync');
  servers = await startServers();
  versions = servers.versions;
  try {
    figures.push(...(await measure.run({ servers, isQuick: values.quick, runs, log })));
  } finally {
    await servers.stop();
  }
}
process.stdout.write(`${renderTable(figures)}\n`);
if (chosen.length === measures.length && !values.quick) {
  const file = writeReport(fileURLToPath(new URL('../bench/results/', import.meta.url)), {
    date: new Date().toISOString().slice(0, 10),
    runs,
    versions: { node: process.versions.node, ...versions },
    figures,
  });
  log(`written: ${file}`);
}
