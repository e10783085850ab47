import { readFileSync } from 'node:fs';

export interface Privileges {
  /** First user id for task hosts; undefined when the worker cannot change ids. */
  readonly uidBase: number | undefined;
  /** Why not, for the log. */
  readonly reason: string | undefined;
}

// Bits of /proc/self/status CapEff (linux/capability.h).
const needed = { CAP_CHOWN: 0, CAP_KILL: 5, CAP_SETGID: 6, CAP_SETUID: 7 } as const;

/**
 * Can hosts run as users of their own? That takes uid 0 with four capabilities, as the worker image has, and a group
 * that is not root's: in a plain root shell every right is there, but so is the developer's home directory that such
 * users could not read, so it is only done where the image asks for it by its group.
 */
export function findPrivileges(uidBase: number): Privileges {
  if (process.platform !== 'linux' || process.getuid?.() !== 0)
    return { uidBase: undefined, reason: 'the worker is not uid 0 on Linux' };
  if (process.getgid?.() === 0)
    return {
      uidBase: undefined,
      reason: 'the worker runs with the group of root; the image runs it as 0:10001',
    };
  const effective = readEffectiveCapabilities();
  const missing = Object.entries(needed).filter(([, bit]) => ((effective >> BigInt(bit)) & 1n) === 0n);
  if (missing.length > 0)
    return { uidBase: undefined, reason: `missing ${missing.map(([name]) => name).join(', ')}` };
  return { uidBase, reason: undefined };
}

function readEffectiveCapabilities(): bigint {
  const hex = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0';
  return BigInt(`0x${hex}`);
}
