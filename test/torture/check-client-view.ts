/** Holds what clients saw against what became of their jobs. Pure: works on a history and a dump that were kept, too. */
import { isDeepStrictEqual } from 'node:util';
import { isFinalState } from './clients.ts';
import type { HistoryEntry, SeenJob } from './history.ts';
import { jobKinds, type FinalJob } from './job-kinds.ts';
import { partOf, requestOf } from './tags.ts';

/** @returns everything that is wrong, by invariant (docs/guarantees.md); nothing when all is well. */
export function checkClientView(entries: readonly HistoryEntry[], jobs: readonly FinalJob[]): string[] {
  return [
    ...ofType(entries, 'unexpected').map(({ what }) => what),
    ...checkRequests(entries, jobs),
    ...checkEnds(entries, jobs),
    ...checkDuplicates(entries, jobs),
    ...checkSightings(entries, jobs),
  ];
}

type OfType<Type extends HistoryEntry['type']> = Extract<HistoryEntry, { type: Type }>;

function ofType<Type extends HistoryEntry['type']>(
  entries: readonly HistoryEntry[],
  type: Type,
): OfType<Type>[] {
  return entries.filter((entry): entry is OfType<Type> => entry.type === type);
}

/** I1, I4, I5: each answer to a request has its job, and no request has a job too many. */
function checkRequests(entries: readonly HistoryEntry[], jobs: readonly FinalJob[]): string[] {
  const problems: string[] = [];
  // The items of a step have its tags; what there may be of them the record says (check-limits.ts).
  const made = Map.groupBy(
    jobs.filter((job) => job.item === null),
    (job) => requestOf(job.tags),
  );
  const accepted = Map.groupBy(ofType(entries, 'accepted'), (entry) => entry.request);
  const refused = new Set(ofType(entries, 'refused').map((entry) => entry.request));
  const duplicates = new Set(ofType(entries, 'duplicate').map((entry) => entry.request));
  for (const { request, kind, key, tenant, whole } of ofType(entries, 'wanted')) {
    const say = (what: string) => problems.push(`${what} (request ${request}, ${kind})`);
    const own = made.get(request) ?? [];
    const answers = accepted.get(request) ?? [];
    for (const id of new Set(answers.map((entry) => entry.id)))
      if (!own.some((job) => job.id === id)) say(`I1: the accepted job ${id} is missing`);
    // What was sent alone is one part without a name.
    for (const [part, jobsOfPart] of Map.groupBy(own, (job) => partOf(job.tags))) {
      const ids = jobsOfPart.map((job) => job.id).join(', ');
      if (key !== null && jobsOfPart.length > 1)
        say(`I4: one key made ${jobsOfPart.length} jobs${part === undefined ? '' : ` of ${part}`}: ${ids}`);
    }
    for (const part of Map.groupBy(answers, (entry) => entry.part).values()) {
      const ids = new Set(part.map((entry) => entry.id));
      if (key !== null && ids.size > 1) say(`I4: one key was answered with ${[...ids].join(' and ')}`);
    }
    if (key === null && own.length > 1) say(`I5: a request that was sent once made ${own.length} jobs`);
    if (refused.has(request) && own.length > 0 && answers.length === 0)
      say('I5: a request that was refused made a job');
    if (duplicates.has(request) && own.length > 0)
      say('I15: a request that was answered with the job of another one made a job');
    const missing = (whole ?? []).filter((part) => !own.some((job) => partOf(job.tags) === part));
    if (own.length > 0 && missing.length > 0)
      say(`I5: half of it was accepted: ${missing.join(', ')} is missing`);
    if (own.some((job) => job.tenant !== tenant))
      say('I12: a job belongs to another tenant than its request');
  }
  const others = jobs.filter((job) => job.tags.includes('other'));
  for (const job of others) problems.push(`I4: a key was used for other content, and made the job ${job.id}`);
  return problems;
}

/** I6, I7, I9: each job ended as its kind may, with the result that follows from its input, and with its effects counted. */
function checkEnds(entries: readonly HistoryEntry[], jobs: readonly FinalJob[]): string[] {
  const problems: string[] = [];
  const wanted = new Map(ofType(entries, 'wanted').map((entry) => [entry.request, entry]));
  const cancels = Map.groupBy(ofType(entries, 'cancel-answered'), (entry) => entry.id);
  for (const job of jobs) {
    const request = requestOf(job.tags);
    // I2 is about those that have not ended.
    if (request === undefined || !isFinalState(job.state)) continue;
    const want = wanted.get(request);
    const kind = jobKinds.find((each) => each.name === want?.kind);
    if (want === undefined || kind === undefined) {
      problems.push(`I5: nobody wanted the job ${job.id}`);
      continue;
    }
    const problem = kind.judge(job, want.expected);
    if (problem !== undefined)
      problems.push(`I6/I7/I9: ${job.id} (request ${request}, ${kind.name}) ${problem}`);
    if (
      cancels.get(job.id)?.some((answer) => answer.state === 'cancelled') === true &&
      job.state !== 'cancelled'
    )
      problems.push(`I3: ${job.id} was answered to be cancelled, and ended as ${job.state}`);
  }
  return problems;
}

/** From a transaction's time to its commit, in ms: as long as Postgres may stand still. */
const commitMs = 10_000;

/** I15: who was told that another job has the unique key was told the truth. */
function checkDuplicates(entries: readonly HistoryEntry[], jobs: readonly FinalJob[]): string[] {
  const wanted = new Map(ofType(entries, 'wanted').map((entry) => [entry.request, entry]));
  const byId = new Map(jobs.map((job) => [job.id, job]));
  return ofType(entries, 'duplicate').flatMap(({ request, id, sentAt, answeredAt }) => {
    const job = byId.get(id);
    const want = wanted.get(request);
    const say = (what: string) => [`I15: request ${request} was answered with the job ${id}, which ${what}`];
    if (job === undefined || want === undefined) return say('does not exist');
    if (job.tenant !== want.tenant) return say('belongs to another tenant');
    if (job.uniqueKey === null || job.uniqueKey !== (want.expected as { uniqueKey?: string }).uniqueKey)
      return say(`has the unique key ${job.uniqueKey}`);
    const bornAt = Date.parse(job.createdAt);
    const diedAt = job.finishedAt === null ? Infinity : Date.parse(job.finishedAt);
    return bornAt > answeredAt || diedAt + commitMs < sentAt ? say('did not live at that time') : [];
  });
}

/** I3, I10: what clients saw of a job never went backwards, and its end never changed. */
function checkSightings(entries: readonly HistoryEntry[], jobs: readonly FinalJob[]): string[] {
  const problems: string[] = [];
  const byId = new Map(jobs.map((job) => [job.id, job]));
  for (const [id, sightings] of Map.groupBy(ofType(entries, 'seen'), (entry) => entry.id)) {
    const job = byId.get(id);
    if (job === undefined) {
      problems.push(`I1: the job ${id} was seen, and is missing`);
      continue;
    }
    let attempts = 0;
    for (const seen of sightings) {
      if (seen.attempts < attempts)
        problems.push(`I10: ${id} was seen with ${attempts} ended attempts, and then with ${seen.attempts}`);
      attempts = seen.attempts;
      if (isFinalState(seen.state) && !isSameEnd(seen, job))
        problems.push(`I3: ${id} was seen as ${endOf(seen)}, and is ${endOf(job)}`);
    }
    const ended = sightings.findIndex((seen) => isFinalState(seen.state));
    const after = ended === -1 ? undefined : sightings.slice(ended).find((seen) => !isFinalState(seen.state));
    if (after !== undefined) problems.push(`I10: ${id} was seen at its end, and then as ${after.state}`);
  }
  return problems;
}

type End = Pick<SeenJob, 'state' | 'finishedAt' | 'result' | 'error'>;

function isSameEnd(seen: End, job: End): boolean {
  return (
    seen.state === job.state &&
    seen.finishedAt === job.finishedAt &&
    isDeepStrictEqual(seen.result, job.result) &&
    isDeepStrictEqual(seen.error, job.error)
  );
}

function endOf({ state, finishedAt, result, error }: End): string {
  return JSON.stringify({ state, finishedAt, result, error });
}
