import { defineTask, fileRef, z } from '#shared/tasks/define-task.ts';

const exampleFile = '0199d7a3-1f5c-7cc0-8000-000000000000';
const tableName = z
  .string()
  .regex(
    /^[A-Za-z_][A-Za-z0-9_]{0,62}$/,
    'must be 1 to 63 letters, digits and underscores, and begin with no digit',
  );

const csvOptions = z.strictObject({
  delimiter: z
    .string()
    .regex(/^[^\r\n" ]$/, 'must be one character, and no space, quote or line end')
    .optional()
    .describe('One character between fields. Default: found out from comma, semicolon, tab and pipe.'),
  quote: z
    .string()
    .max(1)
    .regex(/^[^\r\n]?$/)
    .optional()
    .describe('Character around fields that hold a delimiter; empty for none. Default: `"`.'),
  header: z
    .boolean()
    .default(true)
    .describe('Does the first row name the columns? Without names they are column0, column1 …'),
  encoding: z
    .string()
    .max(40)
    .refine(isEncoding, 'is not a known encoding; try utf-8, windows-1252, utf-16le or shift_jis')
    .optional()
    .describe(
      'Label of the WHATWG Encoding Standard. Default: found out (byte order mark, UTF-16, UTF-8, else Windows-1252).',
    ),
  skipLines: z.int().min(0).max(10_000).optional().describe('Lines above the table. Default: found out.'),
  decimalSeparator: z.enum(['.', ',']).default('.').describe('`,` reads 1,5 as a number.'),
  nullValues: z
    .array(z.string().max(100))
    .max(20)
    .default([])
    .describe('Texts that mean "no value", beside an empty field.'),
  isAllText: z
    .boolean()
    .default(false)
    .describe('Keep every column as text instead of finding numbers and dates.'),
  padShortRows: z
    .boolean()
    .default(false)
    .describe('Fill up rows that lack fields at the end instead of skipping them.'),
});

const column = z.object({ name: z.string(), type: z.string() });

export const task = defineTask({
  name: 'data.query',
  title: 'Query data with SQL',
  description:
    'Runs one SELECT of DuckDB SQL over uploaded CSV, TSV, JSON, NDJSON or Parquet files and writes the rows to a file.',
  queue: 'data',
  input: z
    .strictObject({
      file: fileRef().optional().describe('The file to query. Give this or `files`.'),
      files: z.array(fileRef()).min(1).max(10).optional().describe('Several files, each a table.'),
      sql: z
        .string()
        .min(1)
        .max(100_000)
        .describe('One statement that reads: SELECT, WITH, FROM, VALUES, DESCRIBE or SUMMARIZE.'),
      tables: z
        .array(tableName)
        .max(10)
        .optional()
        .describe(
          'Names of the tables, one for each file. Default: `data`, or `data1`, `data2` … for several files.',
        ),
      inputFormat: z
        .enum(['csv', 'json', 'parquet'])
        .optional()
        .describe('What the files are (json includes NDJSON). Default: found out.'),
      csv: csvOptions.prefault({}).describe('How CSV files are to be read.'),
      format: z
        .enum(['csv', 'json', 'ndjson', 'parquet'])
        .default('csv')
        .describe('Format of the result file.'),
      rowsMax: z
        .int()
        .min(1)
        .max(10_000_000)
        .default(1_000_000)
        .describe('Rows of the result at most; `isTruncated` says whether there were more.'),
    })
    .refine((input) => (input.file === undefined) !== (input.files === undefined), {
      message: 'give either `file` or `files`',
      path: ['file'],
    })
    .refine((input) => input.tables === undefined || input.tables.length === (input.files?.length ?? 1), {
      message: 'give one name for each file',
      path: ['tables'],
    })
    .refine(
      (input) =>
        new Set(input.tables?.map((name) => name.toLowerCase())).size === (input.tables?.length ?? 0),
      {
        message: 'names must differ in more than upper and lower case',
        path: ['tables'],
      },
    ),
  output: z.object({
    file: fileRef(),
    rows: z.int().describe('Rows in the result file.'),
    isTruncated: z.boolean().describe('Were there more than `rowsMax` rows?'),
    columnCount: z.int(),
    columns: z.array(column).describe('Names and DuckDB types; the first 300.'),
    preview: z
      .array(z.record(z.string(), z.unknown()))
      .describe(
        'Up to 20 of the first rows. Integers beyond ±(2^53 − 1), decimals, dates and NaN are strings; long texts are cut.',
      ),
    sizeBytes: z.int(),
    skippedRows: z.int().describe('Rows of all files that could not be read.'),
    tables: z.array(
      z.object({
        name: z.string(),
        file: z.string().describe('Name of the uploaded file.'),
        format: z.enum(['csv', 'json', 'parquet']),
        rows: z.int(),
        encoding: z.string().optional(),
        delimiter: z.string().optional(),
        skippedLines: z.int().optional().describe('Lines above the table that were taken for notes.'),
        skippedRows: z.int(),
        skippedExamples: z.array(z.object({ line: z.int(), reason: z.string(), text: z.string() })),
      }),
    ),
  }),
  example: {
    file: exampleFile,
    sql: 'SELECT country, count(*) AS customers FROM data GROUP BY country ORDER BY customers DESC',
  },
  timeoutMs: { default: 300_000, max: 3_600_000 },
});

function isEncoding(label: string): boolean {
  try {
    return new TextDecoder(label).encoding !== '';
  } catch {
    return false;
  }
}
