/**
 * Splits CSV text into records, forgiving what people and programs get wrong.
 *
 * A quoted field ends at a quote that is followed by a delimiter, the end of the line or the end of the text; spaces
 * around the quotes do not count. A stray quote inside one (`"5" pipe"`) is part of the text while the field stays
 * on its line. When such a field runs over a line end, a quote was most probably never closed, and reading on would
 * swallow good rows: then only the line where the record began is given up, with a `problem`, and reading goes on
 * with the next line. Quotes inside an unquoted field are text. Where DuckDB's strict mode takes a file, it reads the
 * same from it (csv-records.test.ts).
 */
import { rowCharsMax } from './limits.ts';

export interface CsvRecord {
  readonly fields: readonly string[];
  /** Number of the line on which the record begins, from 1. */
  readonly line: number;
  /** Why the record cannot be used; `fields` then holds the line, unsplit. */
  readonly problem?: string;
}

export interface CsvSyntax {
  readonly delimiter: string;
  /** One character, or empty when the file has no quoting. */
  readonly quote: string;
}

/** Yields records in batches: one `await` per record would cost more than the splitting. */
export async function* readCsvRecords(
  chunks: AsyncIterable<string>,
  syntax: CsvSyntax,
): AsyncGenerator<readonly CsvRecord[]> {
  const splitter = createCsvSplitter(syntax);
  for await (const chunk of chunks) yield splitter.push(chunk);
  yield splitter.end();
}

export interface CsvSplitter {
  push(text: string): CsvRecord[];
  end(): CsvRecord[];
}

/** Keeps what is not yet a whole record until the next `push`; never more than `rowCharsMax` and one chunk. */
export function createCsvSplitter(syntax: CsvSyntax): CsvSplitter {
  let rest = '';
  let line = 1;
  let isInGivenUpLine = false;

  function split(text: string, isEnd: boolean): CsvRecord[] {
    const records: CsvRecord[] = [];
    const scan: Scan = { text, isEnd, syntax, found: new Map() };
    let at = 0;
    while (at < text.length) {
      if (isInGivenUpLine) {
        const end = findLineEnd(scan, at);
        if (end === undefined) {
          rest = text.endsWith('\r') ? '\r' : '';
          return records;
        }
        isInGivenUpLine = false;
        line += 1;
        at = end.next;
        continue;
      }
      const taken = takeRecord(scan, at);
      if (taken === undefined) break;
      records.push({
        fields: taken.fields,
        line,
        ...(taken.problem !== undefined && { problem: taken.problem }),
      });
      isInGivenUpLine = taken.next === undefined;
      line += taken.lines;
      at = taken.next ?? at;
    }
    rest = text.slice(at);
    return records;
  }

  return {
    push: (text) => split(rest + text, false),
    end: () => split(rest, true),
  };
}

interface Scan {
  readonly text: string;
  readonly isEnd: boolean;
  readonly syntax: CsvSyntax;
  /** Where `indexOf` last found each character; see `findNext`. */
  readonly found: Map<string, number>;
}

interface Taken {
  readonly fields: readonly string[];
  /** Where the next record begins; undefined when this one is given up before its line has ended. */
  readonly next: number | undefined;
  readonly lines: number;
  readonly problem?: string;
}

/** The record at `from`, or undefined when more text is needed to know where it ends. */
function takeRecord(scan: Scan, from: number): Taken | undefined {
  const { text, syntax } = scan;
  const end = findLineEnd(scan, from);
  const hasQuote = syntax.quote !== '' && findNext(scan, syntax.quote, from) < (end?.at ?? text.length);
  if (hasQuote) return takeQuotedRecord(scan, from);
  if (end === undefined)
    return text.length - from > rowCharsMax ? giveUpUnfinishedLine(scan, from) : undefined;
  if (end.at - from > rowCharsMax) return giveUpLine(scan, from, tooLong);
  return { fields: text.slice(from, end.at).split(syntax.delimiter), next: end.next, lines: 1 };
}

function takeQuotedRecord(scan: Scan, from: number): Taken | undefined {
  const { text, isEnd, syntax } = scan;
  const fields: string[] = [];
  let lines = 1;
  for (let at = from; ;) {
    if (at - from > rowCharsMax) return giveUpLine(scan, from, tooLong);
    const field = takeField(scan, at);
    if (field === 'never closed') return giveUpLine(scan, from, neverClosed);
    if (field === undefined) {
      const isWorthWaiting = !isEnd && text.length - from <= rowCharsMax;
      return isWorthWaiting ? undefined : giveUpLine(scan, from, isEnd ? neverClosed : tooLong);
    }
    fields.push(field.value);
    lines += field.lineEnds;
    at = field.next;
    if (text.startsWith(syntax.delimiter, at)) {
      at += syntax.delimiter.length;
      continue;
    }
    const end = findLineEnd(scan, at);
    return end === undefined ? undefined : { fields, next: end.next, lines };
  }
}

interface Field {
  readonly value: string;
  readonly next: number;
  readonly lineEnds: number;
}

function takeField(scan: Scan, from: number): Field | 'never closed' | undefined {
  const { text, syntax } = scan;
  const opening = skipSpaces(text, from);
  if (text[opening] === syntax.quote) return takeQuotedField(scan, opening);
  const end = findLineEnd(scan, from)?.at ?? Infinity;
  const stop = Math.min(findNext(scan, syntax.delimiter, from), end);
  return stop === Infinity ? undefined : { value: text.slice(from, stop), next: stop, lineEnds: 0 };
}

/** The quoted field at `opening`; undefined when its closing quote is not in the text. */
function takeQuotedField(scan: Scan, opening: number): Field | 'never closed' | undefined {
  const { text, syntax } = scan;
  const { quote, delimiter } = syntax;
  let hasStray = false;
  for (let from = opening + 1; ;) {
    const closing = text.indexOf(quote, from);
    if (closing === -1) return undefined;
    if (text[closing + 1] === quote) {
      from = closing + 2;
      continue;
    }
    const next = skipSpaces(text, closing + 1);
    // At the end of a chunk this may be wrong; then the row has no end yet either, and is read again with more text.
    const isClosing =
      next === text.length || /[\n\r]/.test(text.charAt(next)) || text.startsWith(delimiter, next);
    if (!isClosing) hasStray = true;
    const lineEnds = countLineEnds(text.slice(opening, closing));
    if (hasStray && lineEnds > 0) return 'never closed';
    if (isClosing) {
      return { value: text.slice(opening + 1, closing).replaceAll(quote + quote, quote), next, lineEnds };
    }
    from = closing + 1;
  }
}

const neverClosed = 'a quote is opened and never closed';
const tooLong = `the row is longer than ${rowCharsMax} characters`;

/** Gives up the line at `from` only, so that the rows after it are not lost with it. */
function giveUpLine(scan: Scan, from: number, problem: string): Taken {
  const end = findLineEnd(scan, from);
  if (end === undefined) return giveUpUnfinishedLine(scan, from);
  return {
    fields: [scan.text.slice(from, Math.min(end.at, from + rowCharsMax))],
    next: end.next,
    lines: 1,
    problem,
  };
}

/** Gives up a line whose end is not in sight; what follows of it is dropped as it comes. */
function giveUpUnfinishedLine(scan: Scan, from: number): Taken {
  return { fields: [scan.text.slice(from, from + rowCharsMax)], next: undefined, lines: 0, problem: tooLong };
}

/**
 * The end of the line that `from` is on: `\n`, `\r\n` or `\r`. At the end of the file it is the end of the text;
 * undefined when more text may follow.
 */
function findLineEnd(scan: Scan, from: number): { at: number; next: number } | undefined {
  const { text, isEnd } = scan;
  const lf = findNext(scan, '\n', from);
  const at = Math.min(lf, findNext(scan, '\r', from));
  if (at === Infinity) return isEnd ? { at: text.length, next: text.length } : undefined;
  if (at === lf) return { at, next: at + 1 };
  // A `\r` at the end of a chunk may be the first half of `\r\n`.
  if (at === text.length - 1 && !isEnd) return undefined;
  return { at, next: text[at + 1] === '\n' ? at + 2 : at + 1 };
}

/**
 * Like `indexOf`, Infinity when there is none. The last find is kept while it lies ahead: otherwise a file without a
 * single `\r` or quote would be searched to its end for every row.
 */
function findNext(scan: Scan, what: string, from: number): number {
  const known = scan.found.get(what);
  if (known !== undefined && known >= from) return known;
  const index = scan.text.indexOf(what, from);
  const found = index === -1 ? Infinity : index;
  scan.found.set(what, found);
  return found;
}

function skipSpaces(text: string, from: number): number {
  let at = from;
  while (text[at] === ' ') at += 1;
  return at;
}

function countLineEnds(text: string): number {
  return text.match(/\r\n|\n|\r/g)?.length ?? 0;
}
