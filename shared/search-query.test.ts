import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { jobStates } from '#shared/domain/job.ts';
import { AppError } from '#shared/errors.ts';
import { parseSearch } from './search-query.ts';

describe('parseSearch reads', () => {
  const id = '0195b7e4-5d3c-7000-8000-00000000000a';
  test.each<[string, ReturnType<typeof parseSearch>]>([
    ['', []],
    ['  \t ', []],
    ['state:failed', [{ type: 'state', isNegated: false, states: ['failed'] }]],
    ['-state:failed,Cancelled', [{ type: 'state', isNegated: true, states: ['failed', 'cancelled'] }]],
    [
      'task:image.resize,data.*',
      [{ type: 'task', isNegated: false, names: ['image.resize'], prefixes: ['data.'] }],
    ],
    ['task:*', [{ type: 'task', isNegated: false, names: [], prefixes: [''] }]],
    ['queue:image', [{ type: 'queue', isNegated: false, names: ['image'] }]],
    ['tag:order:7,"a, b"', [{ type: 'tag', isNegated: false, tags: ['order:7', 'a, b'] }]],
    [`id:${id.toUpperCase()}`, [{ type: 'id', isNegated: false, ids: [id] }]],
    [`-batch:${id.toUpperCase()}`, [{ type: 'batch', isNegated: true, ids: [id] }]],
    [
      'created:>1h',
      [{ type: 'created', isNegated: false, alternatives: [[{ operator: '>', ageMs: 3_600_000 }]] }],
    ],
    [
      'created:<=1.5d',
      [{ type: 'created', isNegated: false, alternatives: [[{ operator: '<=', ageMs: 129_600_000 }]] }],
    ],
    [
      'created:<2026-01-31',
      [
        {
          type: 'created',
          isNegated: false,
          alternatives: [[{ operator: '<', at: new Date('2026-01-31T00:00:00Z') }]],
        },
      ],
    ],
    [
      'created:>2026-01-31',
      [
        {
          type: 'created',
          isNegated: false,
          alternatives: [[{ operator: '>=', at: new Date('2026-02-01T00:00:00Z') }]],
        },
      ],
    ],
    [
      'created:<=2026-01-31',
      [
        {
          type: 'created',
          isNegated: false,
          alternatives: [[{ operator: '<', at: new Date('2026-02-01T00:00:00Z') }]],
        },
      ],
    ],
    [
      'created:2026-01-31',
      [
        {
          type: 'created',
          isNegated: false,
          alternatives: [
            [
              { operator: '>=', at: new Date('2026-01-31T00:00:00Z') },
              { operator: '<', at: new Date('2026-02-01T00:00:00Z') },
            ],
          ],
        },
      ],
    ],
    [
      'created:>=2026-01-31T10:00:00+02:00',
      [
        {
          type: 'created',
          isNegated: false,
          alternatives: [[{ operator: '>=', at: new Date('2026-01-31T08:00:00Z') }]],
        },
      ],
    ],
    [
      'duration:>30s,<5ms',
      [
        {
          type: 'duration',
          isNegated: false,
          comparisons: [
            { operator: '>', ms: 30_000 },
            { operator: '<', ms: 5 },
          ],
        },
      ],
    ],
    ['timeout', [{ type: 'text', isNegated: false, texts: ['timeout'] }]],
    ['-"a \\"b\\" \\\\c"', [{ type: 'text', isNegated: true, texts: ['a "b" \\c'] }]],
    [
      '12:30 it"s',
      [
        { type: 'text', isNegated: false, texts: ['12:30'] },
        { type: 'text', isNegated: false, texts: ['it"s'] },
      ],
    ],
    ['__proto__:x', [{ type: 'text', isNegated: false, texts: ['__proto__:x'] }]],
    ['"state:failed"', [{ type: 'text', isNegated: false, texts: ['state:failed'] }]],
    [
      'state:failed  tag:a',
      [
        { type: 'state', isNegated: false, states: ['failed'] },
        { type: 'tag', isNegated: false, tags: ['a'] },
      ],
    ],
  ])('%s', (query, terms) => {
    expect(parseSearch(query)).toEqual(terms);
  });
});

describe('parseSearch says what is wrong with', () => {
  test.each([
    [
      'stat:failed',
      'unknown key "stat:", did you mean "state:"?; to look for this very text, put it in quotes.',
    ],
    [
      'http://example.com',
      'unknown key "http:", known keys are state, task, queue, tag, schedule, workflow, items, id, batch, created, duration; to look for this very text, put it in quotes.',
    ],
    ['constructor:x', 'unknown key "constructor:"'],
    ['state:faild', 'unknown state "faild", did you mean "failed"?'],
    ['state:xyzxyz', 'unknown state "xyzxyz", states are scheduled'],
    ['state:', 'a value is missing in "state:".'],
    ['state:failed,', 'a value is missing in "state:failed,".'],
    ['tag:a,,b', 'a value is missing'],
    ['-', 'a value is missing in "-".'],
    ['""', 'a value is missing'],
    ['a "b', 'the quote that begins at character 3 is not closed.'],
    ['"a"b', 'after the quote that ends at character 3 a space or a comma is needed.'],
    ['task:*.resize', '"*" stands for the rest of the name and is only known at its end.'],
    ['id:7', '"7" is not the id of a job'],
    ['created:1h', 'created:1h needs < (newer than) or > (older than)'],
    ['created:>yesterday', 'created:>yesterday is not a comparison'],
    ['created:2026-02-30', 'is not a comparison'],
    ['created:2026-01-31T10:00:00Z', 'is not a comparison'],
    ['created:>0000-01-01', 'is not a comparison'],
    ['created:<1001y', 'is not a comparison'],
    ['created:<999999999999999w', 'is longer than a hundred years'],
    ['duration:30s', 'duration:30s is not a comparison'],
    ['duration:>1 h', 'duration:>1 is not a comparison'],
    ['a\0b', 'must not contain U+0000'],
    ['x'.repeat(2_001), 'is longer than 2000 characters.'],
    [Array.from({ length: 21 }, () => 'a').join(' '), 'has more than 20 terms.'],
  ])('%s', (query, message) => {
    const err = catchError(() => parseSearch(query));
    expect(err).toMatchObject({ code: 'bad-request', errors: [{ pointer: '/q' }] });
    expect((err as AppError).message).toContain(message);
  });
});

test('whatever the query, parseSearch answers with terms or with an AppError', () => {
  const pieces = fc.constantFrom(
    'state:',
    'task:',
    'created:',
    'duration:',
    'id:',
    'tag:',
    '-',
    ',',
    '"',
    '\\',
    '*',
    ' ',
    '<',
    '>=',
    '1h',
    '2026-01-01',
    'failed',
    '\n',
    '\0',
    ':',
  );
  const query = fc
    .array(fc.oneof(pieces, fc.string({ unit: 'binary' })), { maxLength: 12 })
    .map((parts) => parts.join(''));
  fc.assert(
    fc.property(query, (text) => {
      const err = catchError(() => parseSearch(text));
      expect(err === undefined || err instanceof AppError).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test('any text is found again when it is put in quotes', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 200 }), (text) => {
      const quoted = `"${text.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
      expect(parseSearch(quoted)).toEqual([{ type: 'text', isNegated: false, texts: [text] }]);
    }),
  );
});

test('one search cannot have every input read for hundreds of texts', () => {
  const texts = Array.from({ length: 21 }, (_, index) => `text${index}`);
  expect(parseSearch(texts.slice(1).join(','))).toHaveLength(1);
  expect(() => parseSearch(texts.join(','))).toThrow('more than 20 texts');
});

test('every state can be searched for', () => {
  expect(parseSearch(`state:${jobStates.join(',')}`)).toEqual([
    { type: 'state', isNegated: false, states: [...jobStates] },
  ]);
});

function catchError(work: () => unknown): unknown {
  try {
    work();
    return undefined;
  } catch (err) {
    return err;
  }
}
