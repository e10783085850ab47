import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';

interface Turn {
  /** The answer that is being worked on, or was last. */
  current: ServerResponse;
  /** That of the newest request; it waits for all before it. */
  latest: ServerResponse;
}

const turns = new WeakMap<Duplex, Turn>();

/**
 * Handles the requests of one connection one after the other, each when the answer before it has left. Answers must keep
 * the order of their requests anyway; but Node hands over every request that it finds in a chunk at once, and keeps
 * the answers in memory: 64 KiB of pipelined `GET /openapi.json`, unread, were hundreds of megabytes.
 */
export function oneAtATime(handle: RequestListener): RequestListener {
  return (req: IncomingMessage, res: ServerResponse) => {
    const { socket } = req;
    const turn = turns.get(socket);
    if (turn === undefined) {
      turns.set(socket, { current: res, latest: res });
      handle(req, res);
      return;
    }
    const before = turn.latest;
    turn.latest = res;
    const begin = (): void => {
      turn.current = res;
      handle(req, res);
    };
    if (before.closed) {
      begin();
      return;
    }
    before.once('close', () => {
      // It closes as well when the connection ends; then nobody waits for the others.
      if (!socket.destroyed) begin();
    });
  };
}

/** Whether an answer has begun on this connection and is not complete. */
export function isAnswering(socket: Duplex): boolean {
  const current = turns.get(socket)?.current;
  return current !== undefined && current.headersSent && !current.closed;
}
