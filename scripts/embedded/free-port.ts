import { createServer } from 'node:net';

/**
 * A port on 127.0.0.1 that nobody listens on at this moment. Somebody else may take it before the caller does, so
 * callers try again with another one.
 */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('The system gave no port number.');
  return address.port;
}

/** Why this process cannot listen on `port` of `host` now, as an error code ("EADDRINUSE"); undefined when it can. */
export async function findListenProblem(port: number, host: string): Promise<string | undefined> {
  const server = createServer();
  return await new Promise((resolve) => {
    server.once('error', (err) => resolve('code' in err ? String(err.code) : err.message));
    server.listen(port, host, () => server.close(() => resolve(undefined)));
  });
}
