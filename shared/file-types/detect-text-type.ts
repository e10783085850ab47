import type { DecodedText } from './decode-text.ts';
import { findTable } from './find-table.ts';

/** The kind of a text: SVG, HTML, XML, JSON, JSON lines, CSV, TSV, or plain. */
export function detectTextType(
  { content }: DecodedText,
  isWhole: boolean,
): { mediaType: string; extension: string } {
  const root = findRoot(content);
  if (root === 'svg') return { mediaType: 'image/svg+xml', extension: 'svg' };
  if (root === 'html' || root === 'head' || root === 'body')
    return { mediaType: 'text/html', extension: 'html' };
  if (root !== undefined && /^\s*<\?xml\s/.test(content))
    return { mediaType: 'application/xml', extension: 'xml' };
  if (/^\s*[[{]/.test(content)) {
    if (isJson(content, isWhole)) return { mediaType: 'application/json', extension: 'json' };
    if (areJsonLines(content, isWhole)) return { mediaType: 'application/x-ndjson', extension: 'ndjson' };
  }
  const table = findTable(content, isWhole);
  if (table?.delimiter === '\t') return { mediaType: 'text/tab-separated-values', extension: 'tsv' };
  if (table !== undefined) return { mediaType: 'text/csv', extension: 'csv' };
  return { mediaType: 'text/plain', extension: 'txt' };
}

/** The first element of markup, in lower case, after declarations, comments and the doctype. */
function findRoot(content: string): string | undefined {
  let at = 0;
  for (;;) {
    at = skipSpace(content, at);
    const end = ['<?', '<!--', '<!'].find((start) => content.startsWith(start, at));
    if (end === undefined) break;
    const close = { '<?': '?>', '<!--': '-->', '<!': '>' }[end] ?? '>';
    if (/^<!doctype\s+html/i.test(content.slice(at, at + 30))) return 'html';
    const closed = content.indexOf(close, at + end.length);
    if (closed < 0) return undefined;
    at = closed + close.length;
  }
  const [, name] = /^<([a-z][\w.-]*)(?::([a-z][\w.-]*))?[\s/>]/i.exec(content.slice(at, at + 100)) ?? [];
  return name?.toLowerCase();
}

function skipSpace(content: string, from: number): number {
  let at = from;
  while (/[\s\ufeff]/.test(content.charAt(at))) at += 1;
  return at;
}

/** Of a JSON document that goes on after `content` only the beginning can be held against the grammar. */
function isJson(content: string, isWhole: boolean): boolean {
  if (isWhole) return parses(content);
  return /^\s*[[{]\s*(?:"|[[{\]}]|-?\d|true\b|false\b|null\b)/.test(content) && !areJsonLines(content, false);
}

const linesMax = 20;

function areJsonLines(content: string, isWhole: boolean): boolean {
  const lines = content.split('\n');
  if (!isWhole) lines.pop();
  const full = lines.filter((line) => line.trim() !== '').slice(0, linesMax);
  return full.length >= (isWhole ? 2 : 1) && full.every((line) => /^\s*[[{]/.test(line) && parses(line));
}

function parses(json: string): boolean {
  try {
    JSON.parse(json);
    return true;
  } catch {
    return false;
  }
}
