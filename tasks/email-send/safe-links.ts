/**
 * Takes the target away from every link and picture whose address is not of a harmless kind, above all
 * `javascript:` and `data:`. Schemas of templates ask for http addresses already; this holds for those that forget.
 * @param html made by a template, so attributes are quoted and variables escaped.
 */
export function dropUnsafeLinks(html: string): string {
  return html.replace(
    /(\s(?:href|src|action|formaction|background|poster)\s*=\s*)("[^"]*"|'[^']*')/gi,
    (whole: string, before: string, quoted: string) => (isSafe(quoted.slice(1, -1)) ? whole : `${before}"#"`),
  );
}

const safeSchemes: ReadonlySet<string> = new Set(['http', 'https', 'mailto', 'tel', 'cid']);

/** Reads the address as a browser does: entities decoded, spaces and control characters ignored. */
function isSafe(attribute: string): boolean {
  // oxlint-disable-next-line no-control-regex -- Browsers drop them from addresses.
  const address = decodeEntities(attribute).replace(/[\u0000-\u0020\u007f-\u00a0]/g, '');
  const scheme = /^([^/?#:]*):/.exec(address)?.[1];
  return scheme === undefined || safeSchemes.has(scheme.toLowerCase());
}

function decodeEntities(text: string): string {
  return text
    .replace(/&#x([0-9a-f]{1,6});?/gi, (_, hex: string) => toCharacter(Number.parseInt(hex, 16)))
    .replace(/&#(\d{1,7});?/g, (_, decimal: string) => toCharacter(Number(decimal)))
    .replace(/&(colon|tab|newline|amp);?/gi, (_, name: string) => named[name.toLowerCase()] ?? '');
}

const named: Readonly<Record<string, string>> = { colon: ':', tab: '\t', newline: '\n', amp: '&' };

function toCharacter(code: number): string {
  return code <= 0x10ffff ? String.fromCodePoint(code) : '';
}
