import type { Inspection } from './task.ts';

type LineEnding = NonNullable<Inspection['text']>['lineEnding'];

export function lineEnding(content: string): LineEnding {
  const found = new Set(content.match(/\r\n|\n|\r(?!$)/g));
  if (found.size > 1) return 'mixed';
  const [only] = found;
  return only === undefined ? 'none' : (endings[only] ?? 'none');
}

const endings: Readonly<Record<string, LineEnding>> = { '\n': 'lf', '\r\n': 'crlf', '\r': 'cr' };
