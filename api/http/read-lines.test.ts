import { Readable } from 'node:stream';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readLines } from './read-lines.ts';

async function read(chunks: readonly Buffer[], max: number): Promise<(string | undefined)[][]> {
  const found: (string | undefined)[][] = [];
  for await (const { number, bytes } of readLines(Readable.from(chunks, { objectMode: true }), max))
    found.push([String(number), bytes?.toString('latin1')]);
  return found;
}

test('lines are the same wherever the chunks are cut; those that are too long are skipped, empty ones are only counted', async () => {
  const texts = fc.array(
    fc.oneof(fc.constant(''), fc.string({ unit: fc.constantFrom('a', 'ü', '{', ' '), maxLength: 12 })),
  );
  await fc.assert(
    fc.asyncProperty(
      texts,
      fc.constantFrom('\n', '\r\n'),
      fc.boolean(),
      fc.array(fc.nat(20)),
      async (lines, end, isEnded, cuts) => {
        const whole = Buffer.from(lines.join(end) + (isEnded ? end : ''), 'latin1');
        const chunks: Buffer[] = [];
        let at = 0;
        for (const cut of cuts) {
          if (cut > 0) chunks.push(whole.subarray(at, at + cut));
          at += cut;
        }
        chunks.push(whole.subarray(at));
        const max = 8;
        const expected = lines.flatMap((line, index) => {
          const length = line.length + (end === '\r\n' && (index < lines.length - 1 || isEnded) ? 1 : 0);
          if (line === '') return [];
          return [[String(index + 1), length > max ? undefined : line]];
        });
        expect(await read(chunks, max)).toEqual(expected);
      },
    ),
  );
});
