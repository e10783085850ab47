/** Every limit of this task in one place. What a caller sets, within its ceiling, stands in task.ts. */

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;

/** DuckDB's own memory; what does not fit is spilled to the scratch directory. */
export const memoryLimit = '512MB';

/** How far it may spill. A query that needs more is refused rather than filling the disk. */
export const spillLimit = '8GB';

/** Largest result file. The largest one that a browser or a spreadsheet still opens is far below. */
export const resultBytesMax = 1 * GiB;

/** How often the growing result file is looked at, in ms. */
export const resultWatchMs = 100;

/**
 * Longest row of a CSV file, and line of an NDJSON file that has broken lines, in UTF-16 units; a longer one is skipped. DuckDB's own limit is 2 MiB of UTF-8, which
 * this many units never pass even when each is a quote that is doubled.
 */
export const rowCharsMax = 500_000;

/** How much of a CSV file is looked at to find its delimiter. */
export const dialectSampleBytes = 1 * MiB;

/** Rows of that sample that are compared. */
export const dialectSampleRows = 500;

/** Nesting of JSON below which a value keeps its own type; what lies deeper becomes one JSON column. */
export const jsonDepthMax = 16;

/** Skipped rows that are described in the result, per table; all are counted. */
export const skippedExamplesMax = 5;

/** The result of a job is small JSON (WINDLASS_RESULT_BYTES_MAX): these keep it so whatever the data is. */
export const previewRowsMax = 20;
export const previewTextMax = 200;
export const previewBytesMax = 64 * KiB;
export const columnsListedMax = 300;
export const columnTextMax = 120;
