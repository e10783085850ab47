import { execFile } from 'node:child_process';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Debian's way for an administrator to keep packages from starting their services (invoke-rc.d(8)). */
const policyFile = '/usr/sbin/policy-rc.d';

/**
 * Installs the distribution's redis-server, but neither starts its service now nor at the next boot: it would
 * listen on 6379, where nobody asked for it.
 * @throws Error with apt's own words.
 */
export async function installRedisWithApt(): Promise<void> {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const wait = ['-o', 'DPkg::Lock::Timeout=120'];
  const isPolicyOurs = !existsSync(policyFile);
  // It only holds while this process lives: should we be killed, no service stays forbidden.
  if (isPolicyOurs)
    writeFileSync(policyFile, `#!/bin/sh\nkill -0 ${process.pid} 2>/dev/null && exit 101\nexit 0\n`, {
      mode: 0o755,
    });
  try {
    await run('apt-get', ['update', '-qq', ...wait], { env });
    await run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...wait, 'redis-server'], {
      env,
    });
  } finally {
    if (isPolicyOurs) rmSync(policyFile, { force: true });
  }
  // Where systemd does not run there is nothing to disable, and the command may be missing.
  await run('systemctl', ['disable', 'redis-server.service']).catch(() => undefined);
}
