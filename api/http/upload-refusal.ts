import type { IncomingMessage } from 'node:http';

/** As long as nginx waits by default for a client that should stop sending. */
const lingerMs = 5_000;

/**
 * For a request that is answered with an error before all of its body has arrived. The rest is read and thrown away, and the
 * connection stays half open for up to 5 s after the answer: closing it while bytes come in makes the kernel send a
 * reset, which destroys the answer on its way. Clients that write everything before they read (Python's urllib)
 * would report a broken pipe instead of our 413.
 */
export function readRestOfRefused(req: IncomingMessage): void {
  if (req.complete || req.destroyed) return;
  req.resume();
  const { socket } = req;
  // What http calls after an answer with `Connection: close`.
  socket.destroySoon = () => {
    socket.end();
    const timer = setTimeout(() => socket.destroy(), lingerMs);
    socket.once('close', () => clearTimeout(timer));
  };
}
