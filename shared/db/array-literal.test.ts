import fc from 'fast-check';
import { Client } from 'pg';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { jsonArray, plainArray, textArray } from './array-literal.ts';

let client: Client;
beforeAll(async () => {
  client = new Client({ connectionString: inject('servers').postgresUrl });
  await client.connect();
});
afterAll(() => client.end());

// U+0000 and lone surrogates are refused at the edge.
const text = fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0'));

test('any texts arrive in Postgres as they were', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.option(text)), async (values) => {
      const { rows } = await client.query<{ values: unknown }>('SELECT $1::text[] AS values', [
        textArray(values),
      ]);
      expect(rows[0]?.values).toEqual(values);
    }),
  );
});

test('any JSON documents arrive in Postgres as they were', async () => {
  const json = fc
    .jsonValue({ stringUnit: 'grapheme' })
    .filter((value) => !JSON.stringify(value).includes('\\u0000'));
  await fc.assert(
    fc.asyncProperty(fc.array(json), async (values) => {
      const { rows } = await client.query<{ value: unknown }>('SELECT unnest($1::json[]) AS value', [
        jsonArray(values),
      ]);
      expect(rows.map((row) => row.value)).toEqual(JSON.parse(JSON.stringify(values)));
    }),
  );
});

test('the words null and NULL are texts, null is none', async () => {
  const { rows } = await client.query('SELECT $1::text[] AS texts, $2::bigint[]::text AS numbers', [
    textArray(['null', 'NULL', '', null]),
    plainArray([1, 22]),
  ]);
  expect(rows).toEqual([{ texts: ['null', 'NULL', '', null], numbers: '{1,22}' }]);
});
