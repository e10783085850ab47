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
      // The answer before was the last, and said so: nobody would hear of what is done now (RFC 9112, 9.6).
      if (!socket.writable) return;
      turn.current = res;
      handle(req, res);
    };
    if (before.closed) {
      begin();
      return;
    }
    // It closes as well when the connection ends; then nobody waits for the others.
    before.once('close', begin);
  };
}

/** Undefined when nothing was asked on this connection yet. */
export function turnOf(socket: Duplex): Readonly<Turn> | undefined {
  return turns.get(socket);
}
