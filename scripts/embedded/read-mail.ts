/** An e-mail as the mail page shows it. */
export interface Mail {
  /** Lower-case name → decoded value; several of one name are joined by ", ". */
  readonly headers: Readonly<Record<string, string>>;
  /** The leaves, in order. */
  readonly parts: readonly MailPart[];
}

export interface MailPart {
  readonly mediaType: string;
  readonly name: string | undefined;
  readonly sizeBytes: number;
  /** Decoded, of parts that are text. */
  readonly text: string | undefined;
}

/** Deeper nesting is shown as text. */
const depthMax = 10;

/**
 * Reads as much of MIME (RFC 2045 to 2047) as is needed to show an e-mail to the developer who sent it. Never
 * throws: what it does not understand is shown as it is.
 */
export function readMail(source: Buffer): Mail {
  // Latin-1 keeps every byte, so that each part can be decoded by its own character set.
  const { headers, body } = splitHead(source.toString('latin1'));
  const decoded = Object.entries(headers).map(([name, value]) => [name, decodeWords(value)]);
  return { headers: Object.fromEntries(decoded), parts: readParts({ headers, body, depth: 0 }) };
}

function splitHead(text: string): { headers: Record<string, string>; body: string } {
  const end = /\r?\n\r?\n/.exec(text);
  const head = end === null ? text : text.slice(0, end.index);
  const headers: Record<string, string> = Object.create(null);
  for (const line of head.replaceAll(/\r?\n(?=[ \t])/g, '').split(/\r?\n/)) {
    const colon = line.indexOf(':');
    if (colon < 1) continue;
    const name = line.slice(0, colon).trim().toLowerCase();
    const value = line.slice(colon + 1).trim();
    headers[name] = headers[name] === undefined ? value : `${headers[name]}, ${value}`;
  }
  return { headers, body: end === null ? '' : text.slice(end.index + end[0].length) };
}

function readParts({
  headers,
  body,
  depth,
}: {
  headers: Record<string, string>;
  body: string;
  depth: number;
}): MailPart[] {
  const contentType = headers['content-type'] ?? 'text/plain';
  const mediaType = /^[^;\s]+/.exec(contentType)?.[0].toLowerCase() ?? 'text/plain';
  const boundary = parameter(contentType, 'boundary');
  if (mediaType.startsWith('multipart/') && boundary !== undefined && depth < depthMax) {
    const pieces = `\r\n${body}`.split(`\n--${boundary}`).slice(1);
    const inner = pieces.filter((piece) => !piece.startsWith('--'));
    return inner.flatMap((piece) =>
      readParts({ ...splitHead(piece.replace(/^[ \t]*\r?\n/, '').replace(/\r$/, '')), depth: depth + 1 }),
    );
  }
  const bytes = decodeTransfer(body, headers['content-transfer-encoding'] ?? '7bit');
  const name = parameter(headers['content-disposition'] ?? '', 'filename') ?? parameter(contentType, 'name');
  const text = mediaType.startsWith('text/')
    ? decodeText(bytes, parameter(contentType, 'charset') ?? 'utf-8')
    : undefined;
  return [
    { mediaType, name: name === undefined ? undefined : decodeWords(name), sizeBytes: bytes.length, text },
  ];
}

function parameter(header: string, name: string): string | undefined {
  const match = new RegExp(`;\\s*${name}\\s*=\\s*(?:"([^"]*)"|([^;\\s]+))`, 'i').exec(header);
  return match?.[1] ?? match?.[2];
}

function decodeTransfer(body: string, encoding: string): Buffer {
  switch (encoding.trim().toLowerCase()) {
    case 'base64':
      return Buffer.from(body, 'base64');
    case 'quoted-printable':
      return decodeQuotedPrintable(body.replaceAll(/=[ \t]*\r?\n/g, ''));
    default:
      return Buffer.from(body, 'latin1');
  }
}

function decodeQuotedPrintable(text: string): Buffer {
  return Buffer.from(
    text.replaceAll(/=([0-9A-F]{2})/gi, (_all, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
    'latin1',
  );
}

/** `=?utf-8?B?…?=` and `=?utf-8?Q?…?=`; white space between two of them belongs to neither. */
function decodeWords(value: string): string {
  const word = /=\?([^?\s]+)\?([BQ])\?([^?\s]*)\?=(?:\s+(?==\?))?/gi;
  return decodeText(Buffer.from(value, 'latin1'), 'utf-8').replaceAll(
    word,
    (_all, charset: string, kind: string, text: string) => {
      const bytes =
        kind.toUpperCase() === 'B'
          ? Buffer.from(text, 'base64')
          : decodeQuotedPrintable(text.replaceAll('_', ' '));
      return decodeText(bytes, charset);
    },
  );
}

function decodeText(bytes: Buffer, charset: string): string {
  try {
    return new TextDecoder(charset).decode(bytes);
  } catch {
    return bytes.toString('latin1');
  }
}
