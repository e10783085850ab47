/** The clients: they send jobs of all kinds at a steady rate, look after them as clients do, and write down what they see. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { History, SeenJob } from './history.ts';
import type { JobKind, WantedGroup, WantedJob } from './job-kinds.ts';
import type { Random } from './random.ts';
import type { Outcome, RetryingClient } from './retrying-client.ts';
import { sendGroup } from './send-group.ts';
import { requestTag } from './tags.ts';

export interface Tenant {
  readonly name: string;
  readonly key: string;
}

export interface ClientsOptions {
  readonly client: RetryingClient;
  readonly tenants: readonly Tenant[];
  readonly postUrl: string;
  readonly random: Random;
  readonly history: History;
  readonly kinds: readonly JobKind[];
  /** Jobs a second. */
  readonly rate: number;
  readonly stop: AbortSignal;
}

/** Most jobs that clients look after at once: when the service stands still, they stop sending more. */
const openMax = 80;
const probeEveryMs = 200;

export function isFinalState(state: string): boolean {
  return state === 'succeeded' || state === 'failed' || state === 'cancelled';
}

/** Sends until `stop`, then waits until every client has seen to its jobs. */
export async function runClients(options: ClientsOptions): Promise<void> {
  const { random, rate, stop, kinds } = options;
  const open = new Set<Promise<void>>();
  const probing = probe(options);
  // None when a run is about schedules only.
  for (let request = 1; !stop.aborted && kinds.length > 0; request += 1) {
    const one = lookAfter(options, request, random.fork(`request-${request}`));
    open.add(one);
    void one.finally(() => open.delete(one));
    await sleep((2_000 / rate) * random.next(), undefined, { signal: stop }).catch(() => undefined);
    while (open.size >= openMax && !stop.aborted) await Promise.race(open);
  }
  await Promise.all([probing, ...open]);
}

async function lookAfter(options: ClientsOptions, request: number, random: Random): Promise<void> {
  const { history, tenants, postUrl } = options;
  const tenant = random.pick(tenants);
  const kind = random.pickWeighted(options.kinds);
  const wanted = kind.make(random, { request, postUrl });
  const key = wanted.hasKey ? `key-${request}-${random.int(0, 1_000_000)}` : null;
  history.add({
    type: 'wanted',
    request,
    kind: kind.name,
    tenant: tenant.name,
    key,
    expected: wanted.expected,
    ...('group' in wanted &&
      wanted.group.way !== 'jobs' && { whole: wanted.group.parts.map((part) => part.name) }),
  });
  const attention = random.pick(['to the end', 'glances', 'not at all'] as const);
  if ('group' in wanted) {
    await lookAfterGroup(options, { request, tenant, key: key ?? '', group: wanted.group }, attention);
    return;
  }
  const sending = { options, request, tenant, key, wanted };
  const first = random.int(0, 1);
  const ids = await Promise.all(
    Array.from({ length: wanted.copies ?? 1 }, (_, copy) => send({ ...sending, first: first + copy })),
  );
  const id = ids.find((each) => each !== undefined);
  if (id === undefined) return;
  if (key !== null && random.chance(0.1)) await sendOther(sending);
  if (random.chance(0.05)) await spy(options, tenant, id);
  if (wanted.cancelAfterMs !== undefined) {
    await sleep(wanted.cancelAfterMs);
    await cancel(options, tenant, id);
  }
  await follow(options, tenant, id, attention);
}

async function lookAfterGroup(
  options: ClientsOptions,
  sent: { request: number; tenant: Tenant; key: string; group: WantedGroup['group'] },
  attention: Attention,
): Promise<void> {
  const ids = await sendGroup(options, { ...sent, apiKey: sent.tenant.key });
  await Promise.all(ids.map((id) => follow(options, sent.tenant, id, attention)));
}

type Attention = 'to the end' | 'glances' | 'not at all';

interface Sending {
  readonly options: ClientsOptions;
  readonly request: number;
  readonly tenant: Tenant;
  readonly key: string | null;
  readonly wanted: WantedJob;
  readonly first?: number;
}

/** @returns the id of the job, when it was accepted. */
async function send(sending: Sending): Promise<string | undefined> {
  const { options, request, wanted } = sending;
  const { history } = options;
  let input = wanted.input;
  if (wanted.file?.way === 'stored') {
    const file = await upload(sending, wanted.file.text);
    if (file === undefined) {
      history.add({ type: 'refused', request, status: 0, body: 'its file was not stored' });
      return undefined;
    }
    input = { ...input, file };
  }
  const sentAt = Date.now();
  const outcome = await post(sending, input);
  if ('unanswered' in outcome) {
    history.add({ type: 'unanswered', request, reason: outcome.unanswered });
    return undefined;
  }
  const { status, headers, body } = outcome.answer;
  if (status === 200 && headers.get('windlass-duplicate') === 'true') {
    const { id } = JSON.parse(body) as { id: string };
    history.add({ type: 'duplicate', request, id, sentAt, answeredAt: Date.now() });
    return undefined;
  }
  if (status !== 202) {
    history.add({ type: 'refused', request, status, body });
    history.add({
      type: 'unexpected',
      what: `I5: request ${request} was answered with ${status}: ${body.slice(0, 500)}`,
    });
    return undefined;
  }
  const { id } = JSON.parse(body) as { id: string };
  history.add({
    type: 'accepted',
    request,
    id,
    status,
    replayed: headers.get('idempotency-replayed') === 'true',
  });
  return id;
}

function post(
  { options, request, tenant, key, wanted, first }: Sending,
  input: WantedJob['input'],
): Promise<Outcome> {
  const jobOptions = { ...wanted.options, tags: [requestTag(request)] };
  const headers: Record<string, string> = key === null ? {} : { 'idempotency-key': key };
  const body = () => {
    if (wanted.file?.way === 'slow form')
      return slowForm({ task: wanted.task, options: JSON.stringify(jobOptions), text: wanted.file.text });
    if (wanted.file?.way !== 'form') return JSON.stringify({ task: wanted.task, input, options: jobOptions });
    const form = new FormData();
    form.set('task', wanted.task);
    form.set('options', JSON.stringify(jobOptions));
    form.set('file', new Blob([wanted.file.text], { type: 'text/plain' }), 'text.txt');
    return form;
  };
  if (wanted.file?.way === 'slow form') headers['content-type'] = `multipart/form-data; boundary=${boundary}`;
  else if (wanted.file?.way !== 'form') headers['content-type'] = 'application/json';
  return options.client.request('POST', '/v1/jobs', {
    key: tenant.key,
    isRepeatable: key !== null,
    headers,
    body,
    ...(first !== undefined && { first }),
  });
}

const boundary = 'torture-boundary';
const slowFormMs = 1_500;

/** The file comes first, and then nothing for a while: its bytes are stored, and their row is not there yet. */
function slowForm(form: { task: string; options: string; text: string }): ReadableStream<Uint8Array> {
  const part = (disposition: string, content: string) =>
    Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; ${disposition}\r\n\r\n${content}\r\n`);
  async function* parts() {
    yield part('name="file"; filename="text.txt"', form.text);
    yield part('name="task"', form.task);
    await sleep(slowFormMs);
    yield part('name="options"', form.options);
    yield Buffer.from(`--${boundary}--\r\n`);
  }
  return ReadableStream.from(parts()) as ReadableStream<Uint8Array>;
}

/** The upload has a key of its own. */
async function upload({ options, request, tenant }: Sending, text: string): Promise<string | undefined> {
  const outcome = await options.client.request('POST', '/v1/files', {
    key: tenant.key,
    isRepeatable: true,
    headers: {
      'content-type': 'text/plain',
      'content-disposition': 'attachment; filename="text.txt"',
      'idempotency-key': `file-${request}`,
    },
    body: () => text,
  });
  if (!('answer' in outcome)) return undefined;
  if (outcome.answer.status === 201) return (JSON.parse(outcome.answer.body) as { id: string }).id;
  options.history.add({
    type: 'unexpected',
    what: `I5: the upload of request ${request} was answered with ${outcome.answer.status}: ${outcome.answer.body}`,
  });
  return undefined;
}

/** I4: a key that was used cannot be used for anything else. */
async function sendOther(sending: Sending): Promise<void> {
  const { options, request, tenant, key } = sending;
  const outcome = await options.client.request('POST', '/v1/jobs', {
    key: tenant.key,
    isRepeatable: true,
    headers: { 'content-type': 'application/json', 'idempotency-key': key ?? '' },
    body: () => JSON.stringify({ task: 'test.noop', input: { n: -1 }, options: { tags: ['other'] } }),
  });
  if ('answer' in outcome && outcome.answer.status !== 422)
    options.history.add({
      type: 'unexpected',
      what: `I4: the key of request ${request} was taken for other content: ${outcome.answer.status}`,
    });
}

/** I12: for another tenant the job is not there. */
async function spy(options: ClientsOptions, owner: Tenant, id: string): Promise<void> {
  const other = options.tenants.find((tenant) => tenant !== owner);
  if (other === undefined) return;
  const outcome = await options.client.request('GET', `/v1/jobs/${id}`, {
    key: other.key,
    isRepeatable: true,
  });
  if ('answer' in outcome && outcome.answer.status !== 404)
    options.history.add({
      type: 'unexpected',
      what: `I12: ${other.name} asked for job ${id} of ${owner.name} and got ${outcome.answer.status}`,
    });
}

async function cancel(options: ClientsOptions, tenant: Tenant, id: string): Promise<void> {
  const outcome = await options.client.request('POST', `/v1/jobs/${id}/cancel`, {
    key: tenant.key,
    isRepeatable: true,
  });
  if (!('answer' in outcome)) return;
  const { status, body } = outcome.answer;
  const state = status === 202 ? (JSON.parse(body) as { state: string }).state : '';
  options.history.add({ type: 'cancel-answered', id, status, state });
  // 409: it ended in another way before.
  if (status !== 202 && status !== 409)
    options.history.add({
      type: 'unexpected',
      what: `I5: cancel of ${id} was answered with ${status}: ${body}`,
    });
}

async function follow(options: ClientsOptions, tenant: Tenant, id: string, how: Attention): Promise<void> {
  if (how === 'glances') {
    for (let looks = 0; looks < 3; looks += 1) {
      await look(options, tenant, id, '');
      await sleep(300);
    }
  }
  if (how !== 'to the end') return;
  for (;;) {
    const state = await look(options, tenant, id, '?wait=5');
    if (state === undefined) return;
    if (isFinalState(state)) break;
  }
  // Once more, perhaps from another api: what has ended stays as it is.
  await sleep(300);
  await look(options, tenant, id, '');
}

/** @returns the state that was seen; undefined when there was no answer to be had, or a wrong one. */
async function look(
  { client, history }: ClientsOptions,
  tenant: Tenant,
  id: string,
  query: string,
): Promise<string | undefined> {
  const outcome = await client.request('GET', `/v1/jobs/${id}${query}`, {
    key: tenant.key,
    isRepeatable: true,
  });
  if (!('answer' in outcome)) return undefined;
  const { status, body } = outcome.answer;
  if (status !== 200) {
    history.add({
      type: 'unexpected',
      what: `I1: GET of the accepted job ${id} was answered with ${status}: ${body.slice(0, 300)}`,
    });
    return undefined;
  }
  const job = JSON.parse(body) as Omit<SeenJob, 'attempts'> & { attempts: { outcome: string }[] };
  const { state, finishedAt, result, error } = job;
  const attempts = job.attempts.filter((attempt) => attempt.outcome !== 'running').length;
  history.add({ type: 'seen', id, state, attempts, finishedAt, result, error });
  return state;
}

/** Small jobs, one after the other: how soon does the service work again after a fault? */
async function probe({ client, tenants, history, stop }: ClientsOptions): Promise<void> {
  const [tenant] = tenants;
  if (tenant === undefined) return;
  for (let number = 1; !stop.aborted; number += 1) {
    const sentAt = history.now();
    const sent = await client.request('POST', '/v1/jobs', {
      key: tenant.key,
      isRepeatable: true,
      headers: { 'content-type': 'application/json', 'idempotency-key': `probe-${number}` },
      body: () => JSON.stringify({ task: 'test.noop', input: { n: number }, options: { tags: ['probe'] } }),
    });
    if (!('answer' in sent) || sent.answer.status !== 202) continue;
    const { id } = JSON.parse(sent.answer.body) as { id: string };
    for (;;) {
      const seen = await client.request('GET', `/v1/jobs/${id}?wait=5`, {
        key: tenant.key,
        isRepeatable: true,
      });
      if (!('answer' in seen)) return;
      const { state } = JSON.parse(seen.answer.body) as { state?: string };
      if (state !== undefined && isFinalState(state)) break;
    }
    history.add({ type: 'probe', sentAt });
    await sleep(probeEveryMs);
  }
}
