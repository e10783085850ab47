/**
 * The language of `GET /v1/jobs?q=`:
 *
 *   query  = term *( spaces term )                all terms have to hold
 *   term   = [ "-" ] [ key ":" ] value *( "," value )   "-" negates, "," separates alternatives
 *   value  = word / DQUOTE … DQUOTE               inside quotes, \" and \\ stand for " and \
 *
 * A term without a key is looked for in the error message and the input.
 */
import { z } from 'zod';
import type { CreatedComparison, JobTerm, Operator } from './db/search-jobs.ts';
import { jobStates, type JobState } from './domain/job.ts';
import { isStorable } from './domain/text.ts';
import { AppError } from './errors.ts';
import { isUuid } from './ids.ts';
import { findNearest } from './domain/find-nearest.ts';

export const searchLengthMax = 2_000;
const termsMax = 20;
/** Each is looked for in every input, which is most of the work of a search. */
const textsMax = 20;

/** Pure. @throws AppError `bad-request` that names the part of the query that is wrong. */
export function parseSearch(query: string): JobTerm[] {
  if (query.length > searchLengthMax) throw searchError(`is longer than ${searchLengthMax} characters.`);
  if (!isStorable(query)) throw searchError('must not contain U+0000 or half a surrogate pair.');
  const terms = readTerms(query).map(toJobTerm);
  if (terms.length > termsMax) throw searchError(`has more than ${termsMax} terms.`);
  const texts = terms.flatMap((term) => (term.type === 'text' ? term.texts : []));
  if (texts.length > textsMax) throw searchError(`looks for more than ${textsMax} texts.`);
  return terms;
}

interface RawTerm {
  readonly isNegated: boolean;
  readonly key: string | undefined;
  readonly values: readonly string[];
}

type TermReader = (values: readonly string[]) => DistributiveOmit<JobTerm, 'isNegated'>;
type DistributiveOmit<Union, Key extends PropertyKey> = Union extends unknown ? Omit<Union, Key> : never;

const readers = {
  state: (values) => ({ type: 'state', states: values.map(readState) }),
  task: (values) => ({
    type: 'task',
    names: values.map(checkTask).filter((value) => !value.endsWith('*')),
    prefixes: values.filter((value) => value.endsWith('*')).map((value) => value.slice(0, -1)),
  }),
  queue: (values) => ({ type: 'queue', names: values }),
  tag: (values) => ({ type: 'tag', tags: values }),
  schedule: (values) => ({ type: 'schedule', keys: values }),
  workflow: (values) => ({ type: 'workflow', ids: values.map((value) => readId(value, 'a workflow')) }),
  items: (values) => ({ type: 'items', ids: values.map((value) => readId(value, 'the job of a step')) }),
  id: (values) => ({ type: 'id', ids: values.map((value) => readId(value, 'a job')) }),
  batch: (values) => ({ type: 'batch', ids: values.map((value) => readId(value, 'a batch')) }),
  created: (values) => ({ type: 'created', alternatives: values.map(readCreated) }),
  duration: (values) => ({ type: 'duration', comparisons: values.map(readDuration) }),
} satisfies Record<string, TermReader>;

export const searchKeys = Object.keys(readers);

function toJobTerm({ key, values, isNegated }: RawTerm): JobTerm {
  if (key === undefined) return { isNegated, type: 'text', texts: values };
  if (!Object.hasOwn(readers, key)) {
    const nearest = findNearest(key, searchKeys);
    const hint =
      nearest === undefined ? `known keys are ${searchKeys.join(', ')}` : `did you mean "${nearest}:"?`;
    throw searchError(`unknown key "${key}:", ${hint}; to look for this very text, put it in quotes.`);
  }
  // Just found to be one of them.
  return { isNegated, ...readers[key as keyof typeof readers](values) };
}

function readTerms(query: string): RawTerm[] {
  const terms: RawTerm[] = [];
  let at = 0;
  for (;;) {
    at += /^\s*/.exec(query.slice(at))?.[0].length ?? 0;
    if (at >= query.length) return terms;
    const start = at;
    const isNegated = query[at] === '-';
    if (isNegated) at += 1;
    const key = /^([a-z]\w*):/i.exec(query.slice(at))?.[1];
    if (key !== undefined) at += key.length + 1;
    const values: string[] = [];
    for (;;) {
      const { text, end } = query[at] === '"' ? readQuoted(query, at) : readWord(query, at);
      if (text === '') throw searchError(`a value is missing in "${query.slice(start, end + 1).trim()}".`);
      values.push(text);
      at = end;
      if (query[at] !== ',') break;
      at += 1;
    }
    terms.push({ isNegated, key: key?.toLowerCase(), values });
  }
}

function readWord(query: string, at: number): { text: string; end: number } {
  const text = /^[^\s,]*/.exec(query.slice(at))?.[0] ?? '';
  return { text, end: at + text.length };
}

function readQuoted(query: string, at: number): { text: string; end: number } {
  const quoted = /^"((?:[^"\\]|\\.)*)"/s.exec(query.slice(at));
  if (quoted === null) throw searchError(`the quote that begins at character ${at + 1} is not closed.`);
  const end = at + quoted[0].length;
  if (end < query.length && !/[\s,]/.test(query.charAt(end))) {
    throw searchError(`after the quote that ends at character ${end} a space or a comma is needed.`);
  }
  return { text: (quoted[1] ?? '').replaceAll(/\\(.)/gs, '$1'), end };
}

function readState(value: string): JobState {
  const state = jobStates.find((known) => known === value.toLowerCase());
  if (state !== undefined) return state;
  const nearest = findNearest(value, jobStates);
  const hint = nearest === undefined ? `states are ${jobStates.join(', ')}` : `did you mean "${nearest}"?`;
  throw searchError(`unknown state "${value}", ${hint}`);
}

function checkTask(value: string): string {
  if (value.slice(0, -1).includes('*'))
    throw searchError(`task "${value}": "*" stands for the rest of the name and is only known at its end.`);
  return value;
}

function readId(value: string, what: string): string {
  const id = value.toLowerCase();
  if (!isUuid(id)) throw searchError(`"${value}" is not the id of ${what}, which is a UUID.`);
  return id;
}

const dayMs = 86_400_000;
const unitsMs = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: dayMs, w: 7 * dayMs } as const;
const durationMsMax = 36_525 * dayMs;

function readCreated(value: string): CreatedComparison[] {
  const { operator, operand } = splitOperator(value);
  const ageMs = toMs(operand);
  if (ageMs !== undefined) {
    if (operator === undefined)
      throw searchError(`created:${value} needs < (newer than) or > (older than) before a time span.`);
    return [{ operator, ageMs }];
  }
  if (isDate(operand)) return compareDay(operator, Date.parse(operand));
  if (isInstant(operand) && operator !== undefined) return [{ operator, at: new Date(operand) }];
  throw searchError(
    `created:${value} is not a comparison; write for example created:<1h (in the last hour), created:>1h (before that), created:2026-01-31 or created:<2026-01-31T12:00:00Z.`,
  );
}

/** A date is the whole day, in UTC: after it means after its end. */
function compareDay(operator: Operator | undefined, startMs: number): CreatedComparison[] {
  const start = new Date(startMs);
  const end = new Date(startMs + dayMs);
  switch (operator) {
    case '<':
      return [{ operator: '<', at: start }];
    case '<=':
      return [{ operator: '<', at: end }];
    case '>':
      return [{ operator: '>=', at: end }];
    case '>=':
      return [{ operator: '>=', at: start }];
    case undefined:
      return [
        { operator: '>=', at: start },
        { operator: '<', at: end },
      ];
  }
}

function readDuration(value: string): { operator: Operator; ms: number } {
  const { operator, operand } = splitOperator(value);
  const ms = toMs(operand);
  if (operator === undefined || ms === undefined) {
    throw searchError(
      `duration:${value} is not a comparison; write for example duration:>30s or duration:<=5m (units: ${Object.keys(unitsMs).join(', ')}).`,
    );
  }
  return { operator, ms };
}

function splitOperator(value: string): { operator: Operator | undefined; operand: string } {
  const operator = /^[<>]=?/.exec(value)?.[0];
  // The pattern matches the four operators and nothing else.
  return { operator: operator as Operator | undefined, operand: value.slice(operator?.length ?? 0) };
}

/** `90s` in ms; undefined for anything else, and beyond a hundred years, which Postgres could not subtract. */
function toMs(text: string): number | undefined {
  const match = /^(\d{1,15}(?:\.\d{1,3})?)(ms|s|m|h|d|w)$/.exec(text);
  if (match === null) return undefined;
  const ms = Number(match[1]) * unitsMs[match[2] as keyof typeof unitsMs];
  if (ms > durationMsMax) throw searchError(`"${text}" is longer than a hundred years.`);
  return ms;
}

function isDate(text: string): boolean {
  return isThisEra(text) && z.iso.date().safeParse(text).success;
}

function isInstant(text: string): boolean {
  return isThisEra(text) && z.iso.datetime({ offset: true }).safeParse(text).success;
}

/** Years that both JavaScript and Postgres read in the same way. */
function isThisEra(text: string): boolean {
  return /^(19[7-9]|2\d\d)\d-/.test(text);
}

function searchError(detail: string): AppError {
  return new AppError('bad-request', `Query parameter q: ${detail}`, { errors: [{ pointer: '/q', detail }] });
}
