import type { ArchiveEntry } from './archive-entry.ts';
import { readEntryPath } from './entry-path.ts';
import { createMatcher } from './match-path.ts';
import type { ExtractInput, ExtractResult } from './task.ts';

export type Selection =
  | { readonly do: 'take'; readonly path: string }
  | { readonly do: 'skip'; readonly reason: ExtractResult['skipped'][number]['reason'] }
  | { readonly do: 'leave-out' }
  /** Folders: there is nothing to take. */
  | { readonly do: 'pass' };

/** What is to become of an entry. */
export function createSelect({
  include,
  exclude,
}: Pick<ExtractInput, 'include' | 'exclude'>): (entry: ArchiveEntry) => Selection {
  const isIncluded = include === undefined ? () => true : createMatcher(include);
  const isExcluded = createMatcher(exclude);
  return (entry) => {
    if (entry.kind === 'directory') return { do: 'pass' };
    const place = readEntryPath(entry.rawPath);
    if ('reason' in place) return { do: 'skip', reason: place.reason };
    if (!isIncluded(place.path) || isExcluded(place.path)) return { do: 'leave-out' };
    return entry.kind === 'file' ? { do: 'take', path: place.path } : { do: 'skip', reason: entry.kind };
  };
}
