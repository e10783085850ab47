import { readPart } from '#shared/file-types/read-part.ts';
import type { Inspection } from './task.ts';

/** Read from the beginning and from the end; what lies between are pictures and fonts. */
const partBytes = 1024 * 1024;

/**
 * Version and pages as far as they can be read without a PDF engine: from the page tree, or from the table at the
 * beginning of a file made for the web. Since PDF 1.5 the tree may be inside a compressed object; then nobody says.
 */
export async function inspectPdf(path: string, sizeBytes: number): Promise<Inspection['pdf']> {
  const head = (await readPart(path, 0, partBytes)).toString('latin1');
  const tailStart = Math.max(partBytes, sizeBytes - partBytes);
  const tail = tailStart < sizeBytes ? (await readPart(path, tailStart, partBytes)).toString('latin1') : '';
  const version = /%PDF-(\d\.\d)/.exec(head)?.[1] ?? 'unknown';
  const pages = linearisedPages(head) ?? countedPages(`${head}\n${tail}`);
  return {
    version,
    ...(pages !== undefined && { pages }),
    isEncrypted: /\/Encrypt\s/.test(head) || /\/Encrypt\s/.test(tail),
  };
}

/** ISO 32000-1, annex F: the first object says `/N`, the number of pages. */
function linearisedPages(head: string): number | undefined {
  const first = head.slice(0, 2_048);
  return first.includes('/Linearized') ? pageNumber(/\/N\s+(\d{1,7})\b/.exec(first)?.[1]) : undefined;
}

/** The root of the page tree is the node whose `/Count` is the largest (ISO 32000-1, 7.7.3.2). */
function countedPages(text: string): number | undefined {
  let pages: number | undefined;
  for (const { index } of text.matchAll(/\/Type\s{0,9}\/Pages\b/g)) {
    const start = Math.max(text.lastIndexOf(' obj', index), 0);
    const end = text.indexOf('endobj', index);
    // A node with thousands of pages lists them all, before or after it says how many.
    const node = text.slice(
      Math.max(start, index - nodeCharactersMax),
      Math.min(end < 0 ? text.length : end, index + nodeCharactersMax),
    );
    const count = pageNumber(/\/Count\s{1,9}(\d{1,7})\b/.exec(node)?.[1]);
    if (count !== undefined && count > (pages ?? -1)) pages = count;
  }
  return pages;
}

const nodeCharactersMax = 100_000;

function pageNumber(digits: string | undefined): number | undefined {
  return digits === undefined ? undefined : Number(digits);
}
