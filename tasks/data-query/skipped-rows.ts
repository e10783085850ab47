import { previewTextMax, skippedExamplesMax } from './limits.ts';
import { safeText } from './safe-text.ts';

export interface SkippedRow {
  /** Number of the line in the uploaded file, from 1. */
  readonly line: number;
  readonly reason: string;
  readonly text: string;
}

/** Counts the rows of a file that could not be read, and keeps the first few as examples. */
export class SkippedRows {
  count = 0;
  readonly examples: SkippedRow[] = [];

  add(row: SkippedRow): void {
    this.count += 1;
    if (this.examples.length >= skippedExamplesMax) return;
    this.examples.push({ ...row, text: safeText(row.text, previewTextMax) });
  }
}
