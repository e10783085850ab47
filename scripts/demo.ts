/**
 * `npm run demo`: the main jobs on the sample files of this repository, checked. Starts a service of its own in a
 * temporary directory; with WINDLASS_URL and WINDLASS_API_KEY it uses one that runs already (its mails are then shown
 * only if it has the mail catcher of `npm start`).
 *
 * Exit code 0: every result is right. 1: one is not, or something failed.
 */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import sharp from 'sharp';
import { createDemoClient, type DemoClient, type DemoJob } from './demo/client.ts';
import { showProgress } from './demo/progress.ts';
import { startDemoService, type DemoService } from './demo/service.ts';
import { readMail } from './embedded/read-mail.ts';

const root = resolve(import.meta.dirname, '..');
const resultsDir = resolve(process.argv[2] ?? 'demo-results');
const failures: string[] = [];
let service: DemoService | undefined;

try {
  await mkdir(resultsDir, { recursive: true });
  service = await startDemoService();
  const client = createDemoClient(service.url, service.key);
  const photos = (await readdir(join(root, 'examples/photos'))).filter((name) => name.endsWith('.jpg'));

  heading(`${photos.length} photos become previews of 640 pixels`);
  const previews = await runAll(client, photos, (name) => ({
    task: 'image.resize',
    input: { width: 640, format: 'webp' },
    path: join(root, 'examples/photos', name),
  }));
  for (const [name, job] of previews) await checkPreview(client, name, job);

  heading('The portrait was taken with a camera held upright, and with GPS on: what do the bytes say?');
  await inspectPortrait(
    client,
    join(root, 'examples/photos/fjord-portrait.jpg'),
    previews.get('fjord-portrait.jpg'),
  );

  heading('A messy CSV (notes above it, semicolons, broken rows) is queried with SQL');
  await queryOrders(client, join(root, 'examples/data/orders.csv'));

  heading('A receipt goes out by e-mail');
  await sendReceipt(client, service);
} catch (err) {
  failures.push(err instanceof Error ? err.message : String(err));
} finally {
  await service?.stop();
}

if (failures.length === 0) {
  print(`\nAll of it is right. The results are in ${resultsDir}\n`);
} else {
  print(`\nNot right:\n${failures.map((failure) => `  - ${failure}`).join('\n')}\n`);
}
process.exit(failures.length === 0 ? 0 : 1);

async function runAll(
  client: DemoClient,
  names: readonly string[],
  describe: (name: string) => { task: string; input: unknown; path: string },
): Promise<Map<string, DemoJob>> {
  const started = new Map<string, string>();
  for (const name of names) started.set(name, await client.submitFile(describe(name)));
  return showProgress(client, started);
}

async function checkPreview(client: DemoClient, name: string, job: DemoJob): Promise<void> {
  if (!check(job.state === 'succeeded', `${name}: ${job.state}, ${job.error?.message ?? 'no error'}`)) return;
  const bytes = await client.download(job.id);
  await writeFile(join(resultsDir, `${basename(name, '.jpg')}.webp`), bytes);
  const found = await sharp(bytes).metadata();
  check(
    found.format === 'webp' && found.width === 640,
    `${name}: the preview is ${found.format} of ${found.width} pixels`,
  );
  check(found.exif === undefined, `${name}: the preview still has EXIF data`);
}

async function inspectPortrait(
  client: DemoClient,
  path: string,
  preview: DemoJob | undefined,
): Promise<void> {
  const job = await client.finished(await client.submitFile({ task: 'file.inspect', input: {}, path }));
  if (!check(job.state === 'succeeded', `file.inspect: ${job.state}, ${job.error?.message ?? 'no error'}`))
    return;
  const text = JSON.stringify(job.result, null, 2);
  await writeFile(join(resultsDir, 'fjord-portrait.json'), text);
  const lines = text.split('\n');
  print(indent(lines.slice(0, 16).join('\n')));
  if (lines.length > 16) print(indent(`… ${lines.length - 16} more lines in fjord-portrait.json`));
  check(/gps/i.test(text), 'file.inspect did not find the position in the portrait');
  const size = preview?.result as { width: number; height: number } | undefined;
  check(size !== undefined && size.height > size.width, 'the preview of the portrait does not stand upright');
}

async function queryOrders(client: DemoClient, path: string): Promise<void> {
  const sql = `SELECT Country AS country, count(*) AS orders, sum(replace(Amount::varchar, ',', '.')::decimal(9,2)) AS total
    FROM data GROUP BY ALL ORDER BY total DESC`;
  print(indent(sql.replaceAll(/\n\s+/g, '\n')));
  const job = await client.finished(await client.submitFile({ task: 'data.query', input: { sql }, path }));
  if (!check(job.state === 'succeeded', `data.query: ${job.state}, ${job.error?.message ?? 'no error'}`))
    return;
  const csv = (await client.download(job.id)).toString('utf8');
  await writeFile(join(resultsDir, 'orders-by-country.csv'), csv);
  print(indent(csv.trimEnd()));
  const result = job.result as { rows: number; skippedRows: number };
  print(indent(`(${result.skippedRows} rows that were broken are reported, not dropped in silence)`));
  check(csv.startsWith('country,orders,total'), 'the result of the query does not begin with its columns');
  // Added up by hand: 129.90 + 70.10 + 5.00.
  check(/^DE,3,205\.00$/m.test(csv), 'the total of Germany is not 205.00');
  check(result.skippedRows > 0, 'no broken row was reported');
}

async function sendReceipt(client: DemoClient, running: DemoService): Promise<void> {
  const sample: unknown = JSON.parse(
    await readFile(join(root, 'tasks/email-send/templates/receipt/sample.json'), 'utf8'),
  );
  const id = await client.submit('/v1/emails', {
    to: ['Ada <ada@example.com>'],
    template: { name: 'receipt', variables: sample },
  });
  const job = await client.finished(id);
  if (!check(job.state === 'succeeded', `email.send: ${job.state}, ${job.error?.message ?? 'no error'}`))
    return;
  const source = await running.findMail(id);
  if (source === undefined) {
    check(!running.hasMailCatcher, 'the mail catcher has no such e-mail');
    return;
  }
  await writeFile(join(resultsDir, 'receipt.eml'), source);
  const mail = readMail(source);
  print(
    indent(
      `From: ${mail.headers['from'] ?? ''}\nTo: ${mail.headers['to'] ?? ''}\nSubject: ${mail.headers['subject'] ?? ''}\n`,
    ),
  );
  const text = mail.parts.find((part) => part.mediaType === 'text/plain')?.text ?? '';
  print(indent(text.trim()));
  check(text.includes('R-1042'), 'the e-mail does not name the receipt');
  check(
    mail.parts.some((part) => part.mediaType === 'text/html'),
    'the e-mail has no HTML part',
  );
}

function check(isRight: boolean, failure: string): boolean {
  if (!isRight) failures.push(failure);
  return isRight;
}

function heading(text: string): void {
  print(`\n── ${text}`);
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function indent(text: string): string {
  return text
    .split('\n')
    .map((line) => `   ${line}`)
    .join('\n');
}
