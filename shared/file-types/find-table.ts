export interface Table {
  readonly delimiter: string;
  readonly columns: number;
}

const rowsMax = 50;

/**
 * The columns of CSV or TSV: at least two rows, all with the same number of fields (RFC 4180 quoting), and at least two
 * of them. Of several delimiters that fit, the one that makes the most columns.
 */
export function findTable(content: string, isWhole: boolean): Table | undefined {
  let best: Table | undefined;
  for (const delimiter of [',', '\t', ';']) {
    const widths = fieldCounts(content, delimiter, isWhole);
    const columns = widths[0] ?? 0;
    const isTable = widths.length >= 2 && columns >= 2 && widths.every((width) => width === columns);
    if (isTable && columns > (best?.columns ?? 0)) best = { delimiter, columns };
  }
  return best;
}

/** Fields in each of the first rows. A row that is cut off, and empty lines, do not count. */
function fieldCounts(content: string, delimiter: string, isWhole: boolean): number[] {
  const counts: number[] = [];
  let fields = 1;
  let isQuoted = false;
  let isEmpty = true;
  for (const character of content) {
    if (character === '"') isQuoted = !isQuoted;
    if (isQuoted) {
      isEmpty = false;
    } else if (character === '\n') {
      if (!isEmpty) counts.push(fields);
      if (counts.length === rowsMax) return counts;
      fields = 1;
      isEmpty = true;
    } else if (character === delimiter) {
      fields += 1;
      isEmpty = false;
    } else if (character !== '\r') {
      isEmpty = false;
    }
  }
  if (isWhole && !isEmpty && !isQuoted) counts.push(fields);
  return counts;
}
