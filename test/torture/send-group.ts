/** Sends jobs that belong together: as a workflow, as a batch, or one by one, each waiting for those before it. */
import type { Group, Part } from './group-kinds.ts';
import type { History } from './history.ts';
import type { Outcome, RetryingClient } from './retrying-client.ts';
import { partTag, requestTag } from './tags.ts';

interface Sender {
  readonly client: RetryingClient;
  readonly history: History;
}

export interface SentGroup {
  readonly request: number;
  /** Of the tenant. */
  readonly apiKey: string;
  /** The Idempotency-Key. */
  readonly key: string;
  readonly group: Group;
}

/** @returns the ids of the jobs that were accepted. */
export async function sendGroup(options: Sender, sent: SentGroup): Promise<string[]> {
  const { way, parts } = sent.group;
  switch (way) {
    case 'jobs':
      return sendOneByOne(options, sent);
    case 'workflow': {
      const steps = Object.fromEntries(
        parts.map(({ name, after = [], ...part }) => [
          name,
          { ...part, after, options: optionsOf(sent, name) },
        ]),
      );
      const answer = await post(options, sent, { path: '/v1/workflows', key: sent.key, body: { steps } });
      const jobs = (answer as { steps: Record<string, { job: string }> } | undefined)?.steps ?? {};
      return note(options, sent, new Map(Object.entries(jobs).map(([name, step]) => [name, step.job])));
    }
    case 'batch': {
      const jobs = parts.map(({ name, ...part }) => ({ ...part, options: optionsOf(sent, name) }));
      const body = { jobs: jobs.slice(0, -1), onComplete: jobs.at(-1) };
      const answer = await post(options, sent, { path: '/v1/jobs/batch', key: sent.key, body });
      if (answer === undefined) return [];
      const { items, onComplete } = answer as { items: { id: string }[]; onComplete: { id: string } };
      const ids = [...items, onComplete].map((item, index) => [parts[index]?.name ?? '', item.id] as const);
      return note(options, sent, new Map(ids));
    }
  }
}

async function sendOneByOne(options: Sender, sent: SentGroup): Promise<string[]> {
  const ids = new Map<string, string>();
  for (const part of sent.group.parts) {
    const dependsOn = (part.after ?? []).flatMap((name) => ids.get(name) ?? []);
    const body = {
      task: part.task,
      input: part.input,
      options: { ...optionsOf(sent, part.name), ...(dependsOn.length > 0 && { dependsOn }) },
    };
    const answer = await post(options, sent, { path: '/v1/jobs', key: `${sent.key}-${part.name}`, body });
    if (answer === undefined) break;
    ids.set(part.name, (answer as { id: string }).id);
  }
  return note(options, sent, ids);
}

function optionsOf({ request }: SentGroup, name: Part['name']) {
  return { tags: [requestTag(request), partTag(name)] };
}

/** @returns the body of a 202. */
async function post(
  { client, history }: Sender,
  { request, apiKey }: SentGroup,
  { path, key, body }: { path: string; key: string; body: unknown },
): Promise<unknown> {
  const outcome: Outcome = await client.request('POST', path, {
    key: apiKey,
    isRepeatable: true,
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: () => JSON.stringify(body),
  });
  if ('unanswered' in outcome) {
    history.add({ type: 'unanswered', request, reason: outcome.unanswered });
    return undefined;
  }
  const { status, body: text } = outcome.answer;
  if (status === 202) return JSON.parse(text);
  history.add({ type: 'refused', request, status, body: text });
  history.add({
    type: 'unexpected',
    what: `I5: request ${request} was answered with ${status}: ${text.slice(0, 500)}`,
  });
  return undefined;
}

function note({ history }: Sender, { request }: SentGroup, ids: ReadonlyMap<string, string>): string[] {
  for (const [part, id] of ids)
    history.add({ type: 'accepted', request, id, status: 202, replayed: false, part });
  return [...ids.values()];
}
