import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/**
 * Handles the requests of one connection one after the other, each when the answer before it has left. Answers must keep
 * the order of their requests anyway; but Node hands over every request that it finds in a chunk at once, and keeps
 * the answers in memory: 64 KiB of pipelined `GET /openapi.json`, unread, were hundreds of megabytes.
 */
export function oneAtATime(handle: RequestListener): RequestListener {
  const latest = new WeakMap<Socket, ServerResponse>();
  return (req: IncomingMessage, res: ServerResponse) => {
    const { socket } = req;
    const before = latest.get(socket);
    latest.set(socket, res);
    if (before === undefined || before.closed) {
      handle(req, res);
      return;
    }
    before.once('close', () => {
      // It closes as well when the connection ends; then nobody waits for the others.
      if (!socket.destroyed) handle(req, res);
    });
  };
}
