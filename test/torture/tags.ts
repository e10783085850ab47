/** Tags by which the record tells whose job each is, also when the answer to its acceptance was lost. */
export function requestTag(request: number): string {
  return `request:${request}`;
}

/** The request that made a job; undefined for those of the probe and of schedules. */
export function requestOf(tags: readonly string[]): number | undefined {
  const request = valueOf(tags, 'request:');
  return request === undefined ? undefined : Number(request);
}

export function partTag(name: string): string {
  return `part:${name}`;
}

/** The part of a group that a job is; undefined for a job that was sent alone. */
export function partOf(tags: readonly string[]): string | undefined {
  return valueOf(tags, 'part:');
}

function valueOf(tags: readonly string[], prefix: string): string | undefined {
  return tags.find((tag) => tag.startsWith(prefix))?.slice(prefix.length);
}
