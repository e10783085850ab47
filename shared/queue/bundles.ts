/**
 * What one BullMQ job carries: a delivery, or a bundle of several. To take and end a BullMQ job costs a worker and Redis more
 * than all else that a job costs which ends at once; the deliveries of a bundle share it. Nothing else
 * knows of bundles but the consumer, which may claim one whole: each delivery of one is run and forgotten by itself.
 */
import { randomUUID } from 'node:crypto';
import type { Delivery } from '../db/claim-jobs.ts';
import { isUuid } from '../ids.ts';

/** A BullMQ job: its id, and its data as JSON. */
export interface Entry {
  readonly id: string;
  readonly data: string;
}

/** Most deliveries in one. */
export const bundleMax = 16;

/** Of a delivery that is an entry by itself. */
export const noData = '{}';

/** A worker should be through with a bundle in this time, in ms. What it holds, no other worker can take. */
const workMs = 100;

/** @param perSecond jobs of a queue that a worker takes in a second. */
export function bundleSize(perSecond: number): number {
  return Math.min(bundleMax, Math.max(1, Math.floor((perSecond * workMs) / 1_000)));
}

export function deliveryId({ jobId, fence }: Delivery): string {
  return `j_${jobId}_${fence}`;
}

/** @param size deliveries in each, at most `bundleMax`; the last one has what is left. */
export function packEntries(deliveries: readonly Delivery[], size: number): Entry[] {
  return Array.from({ length: Math.ceil(deliveries.length / size) }, (_, index) => {
    const [first = '', ...others] = deliveries.slice(index * size, (index + 1) * size).map(deliveryId);
    return others.length === 0
      ? { id: first, data: noData }
      : { id: `b_${randomUUID()}`, data: JSON.stringify([first, ...others]) };
  });
}

/** Undefined for anything that is not one of our entries: Redis is not trusted. */
export function unpackEntry(
  id: string | undefined,
  data: unknown,
): readonly [Delivery, ...Delivery[]] | undefined {
  const ids: unknown = id?.startsWith('b_') === true ? data : [id];
  if (!Array.isArray(ids) || ids.length > bundleMax) return undefined;
  const [first, ...others] = ids.map(parseDeliveryId).filter((delivery) => delivery !== undefined);
  return first !== undefined && others.length === ids.length - 1 ? [first, ...others] : undefined;
}

function parseDeliveryId(id: unknown): Delivery | undefined {
  const [mark, jobId, fence] = typeof id === 'string' ? id.split('_') : [];
  if (mark !== 'j' || !isUuid(jobId) || fence === undefined || !/^\d{1,15}$/.test(fence)) return undefined;
  return { jobId, fence: Number(fence) };
}
