/**
 * The load: as many keep-alive connections as asked for, one request at a time on each, on bare sockets so that the
 * client is not what is measured. A process of its own; told what to do by a message, answers with what it saw.
 */
import { connect, type Socket } from 'node:net';

export interface LoadOrder {
  readonly port: number;
  readonly connections: number;
  /** The whole request, header and body. */
  readonly request: string;
  /** What is sent in this time is not counted. */
  readonly warmUpMs: number;
  readonly measureMs: number;
}

export interface LoadReport {
  readonly perSecond: number;
  readonly latencyMsP50: number;
  readonly latencyMsP99: number;
  /** Answers that were no 2xx. */
  readonly errors: number;
}

process.on('message', (order: LoadOrder) => {
  void applyLoad(order).then((report) => process.send?.(report));
});
process.send?.({ ready: true });

async function applyLoad(order: LoadOrder): Promise<LoadReport> {
  const request = Buffer.from(order.request);
  const latenciesMs: number[] = [];
  let errors = 0;
  const startMs = performance.now() + order.warmUpMs;
  const endMs = startMs + order.measureMs;

  /** Sends one request after the other until the time is over. */
  function drive(socket: Socket): Promise<void> {
    return new Promise((resolve, reject) => {
      let sentMs = 0;
      let answer = '';
      const send = () => {
        answer = '';
        sentMs = performance.now();
        socket.write(request);
      };
      socket.on('data', (chunk) => {
        answer += chunk.toString('latin1');
        if (!isComplete(answer)) return;
        const nowMs = performance.now();
        if (nowMs >= startMs && nowMs < endMs) latenciesMs.push(nowMs - sentMs);
        if (answer[9] !== '2') errors += 1;
        if (nowMs < endMs) send();
        else {
          socket.end();
          resolve();
        }
      });
      socket.on('error', reject);
      socket.on('close', () =>
        reject(new Error(`The server closed a connection. Last answer: ${answer.slice(0, 300)}`)),
      );
      send();
    });
  }

  const sockets = await Promise.all(Array.from({ length: order.connections }, () => open(order.port)));
  await Promise.all(sockets.map(drive));
  latenciesMs.sort((a, b) => a - b);
  const at = (share: number) =>
    latenciesMs[Math.min(latenciesMs.length - 1, Math.floor(latenciesMs.length * share))] ?? Number.NaN;
  return {
    perSecond: latenciesMs.length / (order.measureMs / 1_000),
    latencyMsP50: at(0.5),
    latencyMsP99: at(0.99),
    errors,
  };
}

function open(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true }, () => resolve(socket));
    socket.once('error', reject);
  });
}

function isComplete(answer: string): boolean {
  const headEnd = answer.indexOf('\r\n\r\n');
  if (headEnd === -1) return false;
  const length = /\r\ncontent-length: *(\d+)/i.exec(answer.slice(0, headEnd))?.[1];
  if (length === undefined) throw new Error(`An answer without Content-Length: ${answer.slice(0, 300)}`);
  return answer.length >= headEnd + 4 + Number(length);
}
