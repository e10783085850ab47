/**
 * /livez and /readyz of a worker, on loopback only: for a container's health check. A worker whose lease has not been
 * renewed for five leases is stuck or cut off, and better started again.
 */
import { createServer, type Server } from 'node:http';
import { once } from 'node:events';
import type { LeaseKeeper } from './lease-keeper.ts';

export async function startHealthServer(options: {
  port: number;
  lease: Pick<LeaseKeeper, 'silentMs'>;
  leaseMs: number;
}): Promise<{ close(): Promise<void> }> {
  const { port, lease, leaseMs } = options;
  const server: Server = createServer((req, res) => {
    const silentMs = Math.round(lease.silentMs());
    const limitMs = req.url === '/readyz' ? leaseMs : 5 * leaseMs;
    res.writeHead(silentMs < limitMs ? 200 : 503, {
      'content-type': 'application/json',
      'cache-control': 'no-store',
    });
    res.end(JSON.stringify({ status: silentMs < limitMs ? 'ok' : 'silent', lastRenewalMs: silentMs }));
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  return {
    async close() {
      server.close();
      server.closeAllConnections();
    },
  };
}
