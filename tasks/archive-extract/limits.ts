/** Limits of what an archive may be. Those that a job can choose are in task.ts, those of all tasks in `ctx.limits`. */

/** Entries that are looked at, of any kind: ten times what one job may give by default. */
export const entriesMax = 10_000;

/** The longest path of an entry, in bytes of UTF-8. Longer ones are skipped; no file system would have taken most of them. */
export const pathBytesMax = 1_024;

/** The directory of a ZIP archive: names, comments and extra fields of all entries, which are in memory at once. */
export const directoryBytesMax = 16 * 1024 * 1024;

/** What may come out whatever the ratio: empty tables and blank images are smaller than any attack needs. */
export const ratioFreeBytes = 16 * 1024 * 1024;

/** Entries that the result names as skipped. */
export const skippedNamesMax = 100;

/** The longest name of a stored file, in bytes of UTF-8. */
export const nameBytesMax = 255;
