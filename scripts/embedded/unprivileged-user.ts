import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface SystemUser {
  readonly uid: number;
  readonly gid: number;
}

/**
 * Who the servers run as: nobody else than ourselves (undefined), except that root starts them as an ordinary user,
 * because Postgres refuses to run as root and Redis has no business doing so. That user is `postgres`
 * where it exists, else `windlass`, which is made when it is missing.
 * @throws Error when root cannot find or make one.
 */
export async function unprivilegedUser(): Promise<SystemUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const found = (await findUser('postgres')) ?? (await findUser('windlass'));
  if (found !== undefined) return found;
  try {
    await run('useradd', [
      '--system',
      '--user-group',
      '--no-create-home',
      '--shell',
      '/usr/sbin/nologin',
      'windlass',
    ]);
  } catch (err) {
    throw new Error(
      'Postgres does not run as root, and making the user "windlass" for it failed. ' +
        'Make that user yourself, start as an ordinary user, or set DATABASE_URL to a Postgres of your own.',
      { cause: err },
    );
  }
  return await findUser('windlass');
}

async function findUser(name: string): Promise<SystemUser | undefined> {
  try {
    const [uid, gid] = await Promise.all(
      ['-u', '-g'].map(async (flag) => Number((await run('id', [flag, name])).stdout)),
    );
    return uid === undefined || gid === undefined ? undefined : { uid, gid };
  } catch {
    return undefined;
  }
}
