import type { Config } from '#shared/config.ts';
import { findListenProblem, freePort } from '#scripts/embedded/free-port.ts';
import { UsageError } from './read-options.ts';

/**
 * The port the api will listen on: that of the configuration, or a free one for 0. It is asked for before anything is
 * started, and stays the same when the api has to be started again.
 * @throws UsageError when it cannot be listened on.
 */
export async function checkPort({ HOST, PORT }: Pick<Config, 'HOST' | 'PORT'>): Promise<number> {
  if (PORT === 0) return await freePort();
  const problem = await findListenProblem(PORT, HOST);
  if (problem === undefined) return PORT;
  const choose = 'Choose another: npm start -- --port 8081';
  if (problem === 'EADDRINUSE') throw new UsageError(`Port ${PORT} on ${HOST} is taken. ${choose}`);
  if (problem === 'EACCES')
    throw new UsageError(`Port ${PORT} is reserved for the system's services. ${choose}`);
  throw new UsageError(
    `Nothing can listen on port ${PORT} of ${HOST} (${problem}). HOST must be an address of this machine.`,
  );
}
