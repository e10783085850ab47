import type { Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { errorTable, type ErrorCode } from '#shared/errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import { turnOf } from './one-at-a-time.ts';

/**
 * Answers requests that never become one (headers over their limit, not HTTP, too slow) with a problem like any other.
 * Node would answer them itself, with a status and nothing that says the limit.
 * The listener of the server must be one of `oneAtATime`.
 * @param options.headerBytesMax `maxHeaderSize` of the server, for the text.
 */
export function answerClientErrors(
  server: Server,
  options: { headerBytesMax: number; publicUrl: string | undefined },
): void {
  const concluded = new WeakSet<Duplex>();
  server.on('clientError', (err: NodeJS.ErrnoException, socket) => {
    // Whatever comes after what was wrong is wrong again.
    if (concluded.has(socket)) return;
    concluded.add(socket);
    const answer = (): void => {
      socket.end(renderProblem(describe(err.code, options.headerBytesMax), options.publicUrl), () =>
        socket.destroy(),
      );
    };
    /** Requests that came whole get their own answers first: what is wrong came after them. */
    const conclude = (): void => {
      const turn = turnOf(socket);
      if (err.code === 'ECONNRESET' || !socket.writable) socket.destroy();
      else if (turn === undefined || (turn.current.closed && turn.current === turn.latest)) answer();
      else if (turn.current !== turn.latest || turn.current.req.complete)
        turn.current.once('close', conclude);
      // In the middle of an answer, another one would be taken for a part of it.
      else if (turn.current.headersSent) socket.destroy();
      else answer();
    };
    conclude();
  });
}

interface Problem {
  readonly code: ErrorCode;
  readonly detail: string;
}

function describe(parserCode: string | undefined, headerBytesMax: number): Problem {
  switch (parserCode) {
    case 'HPE_HEADER_OVERFLOW':
      return {
        code: 'headers-too-large',
        detail: `The request line and headers are larger than ${headerBytesMax} bytes. A long search may be cut into several.`,
      };
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return { code: 'request-timeout', detail: 'The headers did not arrive in time.' };
    default:
      return { code: 'bad-request', detail: 'What was sent is not a valid HTTP/1.1 request.' };
  }
}

function renderProblem({ code, detail }: Problem, publicUrl = ''): string {
  const { status, title, retryable } = errorTable[code];
  const instance = uuidv7();
  // Without a valid request there is no Host, so the type is relative unless the address is configured.
  const body = JSON.stringify({
    type: `${publicUrl.replace(/\/+$/, '')}/problems/${code}`,
    title,
    status,
    detail,
    instance,
    code,
    retryable,
  });
  return [
    `HTTP/1.1 ${status} ${title}`,
    'Content-Type: application/problem+json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    `X-Request-Id: ${instance}`,
    'X-Content-Type-Options: nosniff',
    'Cache-Control: no-store',
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}
