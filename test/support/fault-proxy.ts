/**
 * A TCP proxy that breaks connections in the ways networks do. Between a client and a server of a test, it can hold
 * bytes back for ever, reset, refuse, lose one answer, and lead to another server.
 *
 * A connection that lost a byte stays dead until it is closed: TCP never loses bytes in the middle of a stream, so to
 * pass on what comes later would be a fault that does not exist.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

/** `up`: what the client sends. `down`: what the server answers. */
export type Direction = 'up' | 'down';

export interface FaultProxy {
  /** `serverUrl` with the proxy's address in place of the server's. */
  url(serverUrl: string): string;
  /** From now on, bytes of these directions vanish, on open connections and on new ones. */
  swallow(directions: readonly Direction[]): void;
  /** How many bytes have vanished so far. */
  swallowedBytes(): number;
  /** Open connections are reset, and new ones as soon as they come. */
  refuse(): void;
  /** New connections work again; those that lost bytes stay dead. An answer that has not been lost yet will not be. */
  heal(): void;
  /** Resets all open connections. */
  cut(): void;
  /** From now on, leads to this port; open connections are reset. */
  switchTo(port: number): void;
  /**
   * Loses the answer to the next request that contains `text`: the server gets it and answers, the answer is
   * swallowed, the connection is reset. Resolves when that has happened; with `thenRefuse`, the proxy refuses from then on.
   */
  loseAnswerTo(text: string, options?: { thenRefuse?: boolean }): Promise<void>;
  close(): Promise<void>;
}

interface Loss {
  readonly text: string;
  readonly thenRefuse: boolean;
  readonly done: () => void;
}

export async function startFaultProxy(serverPort: number): Promise<FaultProxy> {
  const sockets = new Set<Socket>();
  let port = serverPort;
  let swallowed: readonly Direction[] = [];
  let swallowedBytes = 0;
  let isRefusing = false;
  let loss: Loss | undefined;

  const cut = () => {
    for (const socket of sockets) socket.resetAndDestroy();
  };

  function accept(client: Socket): void {
    if (isRefusing) {
      client.resetAndDestroy();
      return;
    }
    const server = connect({ port, host: '127.0.0.1', noDelay: true });
    const dead = new Set<Direction>();
    let losing: Loss | undefined;

    const forward = (from: Socket, to: Socket, direction: Direction, chunk: Buffer): void => {
      if (swallowed.includes(direction)) dead.add(direction);
      if (dead.has(direction)) {
        swallowedBytes += chunk.length;
        return;
      }
      if (direction === 'up' && loss !== undefined && chunk.includes(loss.text)) {
        losing = loss;
        loss = undefined;
      } else if (direction === 'down' && losing !== undefined) {
        if (losing.thenRefuse) isRefusing = true;
        client.resetAndDestroy();
        server.resetAndDestroy();
        if (losing.thenRefuse) cut();
        losing.done();
        return;
      }
      if (!to.write(chunk)) {
        from.pause();
        to.once('drain', () => from.resume());
      }
    };
    for (const [from, to, direction] of [
      [client, server, 'up'],
      [server, client, 'down'],
    ] as const) {
      sockets.add(from);
      from.on('data', (chunk: Buffer) => forward(from, to, direction, chunk));
      from.on('end', () => {
        // On a dead connection the other side does not hear of it, either.
        if (dead.size === 0) to.end();
      });
      from.on('error', () => undefined);
      from.on('close', () => {
        sockets.delete(from);
        if (dead.size === 0) to.destroy();
      });
    }
  }

  const listener: Server = createServer({ noDelay: true, allowHalfOpen: true }, accept);
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const address = listener.address();
  if (typeof address !== 'object' || address === null) throw new Error('The proxy has no port.');
  const ownPort = address.port;

  return {
    url(serverUrl) {
      const url = new URL(serverUrl);
      url.hostname = '127.0.0.1';
      url.port = String(ownPort);
      return url.href;
    },
    swallow(directions) {
      swallowed = directions;
    },
    swallowedBytes: () => swallowedBytes,
    refuse() {
      isRefusing = true;
      cut();
    },
    heal() {
      swallowed = [];
      isRefusing = false;
      loss = undefined;
    },
    cut,
    switchTo(newPort) {
      port = newPort;
      cut();
    },
    loseAnswerTo(text, { thenRefuse = false } = {}) {
      return new Promise((done) => {
        loss = { text, thenRefuse, done };
      });
    },
    async close() {
      cut();
      listener.close();
      await once(listener, 'close');
    },
  };
}
