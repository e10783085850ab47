/** Whether bytes of one type contradict the declaration of another. */
export function contradicts(declared: string, detected: string): boolean {
  const claim = normalise(declared);
  const found = normalise(detected);
  if (claim === '' || claim === 'application/octet-stream' || claim === found) return false;
  // A declaration may be more precise than bytes can be: SVG is XML, a JSON API document is JSON, CSV is text.
  if (found === 'application/zip')
    return !/[+]zip$|openxmlformats|opendocument|java-archive|android/.test(claim);
  if (found === 'application/json')
    return !claim.endsWith('+json') && claim !== 'text/plain' && claim !== jsonLines;
  if (found === 'application/xml') return !claim.endsWith('+xml') && claim !== 'text/plain';
  if (found === 'text/plain') return !claim.startsWith('text/') && !textApplications.has(claim);
  if (found === 'application/x-empty') return false;
  if (found === 'application/octet-stream') return !isBinary(claim);
  if (claim === 'text/plain') return !found.startsWith('text/') && found !== jsonLines;
  if (tables.has(claim) && tables.has(found)) return false;
  // Sound and film share containers: an MP4 without pictures is often declared as film, and the reverse.
  const [claimKind, claimName] = claim.split('/');
  const [foundKind, foundName] = found.split('/');
  const isMedia = (kind: string | undefined): boolean => kind === 'audio' || kind === 'video';
  return !(claimName === foundName && isMedia(claimKind) && isMedia(foundKind));
}

const jsonLines = 'application/x-ndjson';
const tables = new Set(['text/csv', 'text/tab-separated-values']);

/** Programs and data whose source is plain text. */
const textApplications = new Set([
  'application/javascript',
  'application/sql',
  'application/toml',
  'application/x-sh',
  'application/yaml',
]);

/** Bytes without a known magic number may be any of these. */
function isBinary(type: string): boolean {
  return type.startsWith('application/') && !textApplications.has(type) && !wellKnown.has(type);
}

/** Types whose bytes would have been recognised. */
const wellKnown = new Set([
  'application/json',
  jsonLines,
  'application/pdf',
  'application/zip',
  'application/gzip',
  'application/xml',
]);

/** Lower case, without parameters, and by the registered name where several are in use. */
function normalise(type: string): string {
  const bare = type.replace(/;.*/s, '').trim().toLowerCase();
  return (
    aliases[bare] ??
    bare.replace(/^([a-z]+)\/x-/, (_, kind: string) => (kind === 'application' ? `${kind}/x-` : `${kind}/`))
  );
}

const aliases: Readonly<Record<string, string>> = {
  'image/jpg': 'image/jpeg',
  'image/pjpeg': 'image/jpeg',
  'image/apng': 'image/png',
  'image/heif': 'image/heic',
  'audio/mp3': 'audio/mpeg',
  'audio/wave': 'audio/wav',
  'audio/vnd.wave': 'audio/wav',
  'audio/x-m4a': 'audio/mp4',
  'audio/m4a': 'audio/mp4',
  'video/x-m4v': 'video/mp4',
  'video/x-msvideo': 'video/vnd.avi',
  'video/avi': 'video/vnd.avi',
  'application/x-zip-compressed': 'application/zip',
  'application/x-zip': 'application/zip',
  'application/x-gzip': 'application/gzip',
  'application/x-pdf': 'application/pdf',
  'application/jsonl': 'application/x-ndjson',
  'application/ndjson': 'application/x-ndjson',
  'application/x-jsonlines': 'application/x-ndjson',
  'application/csv': 'text/csv',
  'text/tsv': 'text/tab-separated-values',
  'text/xml': 'application/xml',
  'text/json': 'application/json',
};
