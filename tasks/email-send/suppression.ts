/**
 * Addresses that a mail server has refused for good are remembered per tenant and left out from then on: going on
 * sending to dead addresses is what gets a sender onto block lists.
 */
import type { InlineTaskContext } from '#shared/tasks/define-task.ts';
import type { Refusal } from './delivery-error.ts';

type Memory = InlineTaskContext['memory'];

const key = (address: string) => `suppressed:${address.toLowerCase()}`;

export async function findSuppressed(memory: Memory, addresses: readonly string[]): Promise<Set<string>> {
  const found = await Promise.all(
    addresses.map(async (address) => ((await memory.get(key(address))) ? [address] : [])),
  );
  return new Set(found.flat());
}

export async function suppressDead(memory: Memory, refusals: readonly Refusal[], now: Date): Promise<void> {
  for (const { address, reason, isAddressDead } of refusals) {
    if (isAddressDead) await memory.set(key(address), { reason, since: now.toISOString() });
  }
}
