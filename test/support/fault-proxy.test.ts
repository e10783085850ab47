import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { startFaultProxy, type FaultProxy } from './fault-proxy.ts';
import { waitFor } from './wait-for.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

test('passes bytes on in both directions', async () => {
  const { proxy, server } = await setup();
  const client = open(proxy);
  client.socket.write('hello');
  await waitFor(() => (client.received() === 'one:hello' ? true : undefined), { what: 'the echo' });
  expect(server.received()).toBe('hello');
});

test('a connection that lost bytes stays dead without a word; after healing, a new one works', async () => {
  const { proxy, server } = await setup();
  const client = open(proxy);
  await once(client.socket, 'connect');
  proxy.swallow(['up', 'down']);
  client.socket.write('lost');
  const other = open(proxy);
  other.socket.write('lost as well');
  await waitFor(() => (proxy.swallowedBytes() === 16 ? true : undefined), { what: 'the bytes to vanish' });
  proxy.heal();
  const fresh = open(proxy);
  fresh.socket.write('seen');
  await waitFor(() => (fresh.received() === 'one:seen' ? true : undefined), { what: 'the echo' });
  client.socket.write(' too');
  fresh.socket.write('!');
  await waitFor(() => (fresh.received() === 'one:seenone:!' ? true : undefined), { what: 'the second echo' });
  expect(client.socket.destroyed).toBe(false);
  expect(client.received()).toBe('');
  expect(server.received()).not.toContain('lost');
});

test('in one direction: the server hears the client, the client hears nothing', async () => {
  const { proxy, server } = await setup();
  proxy.swallow(['down']);
  const client = open(proxy);
  client.socket.write('heard');
  await waitFor(() => (server.received() === 'heard' ? true : undefined), { what: 'the server to hear it' });
  expect(client.received()).toBe('');
});

test('loses the answer to one request, resets that connection, and refuses from then on if told to', async () => {
  const { proxy, server } = await setup();
  const lost = proxy.loseAnswerTo('commit', { thenRefuse: true });
  const client = open(proxy);
  client.socket.write('begin');
  await waitFor(() => (client.received() === 'one:begin' ? true : undefined), { what: 'the first answer' });
  client.socket.write('commit');
  await lost;
  await waitFor(() => (client.socket.destroyed ? true : undefined), { what: 'the reset' });
  expect(server.received()).toBe('begincommit');
  expect(client.received()).toBe('one:begin');
  const refused = open(proxy);
  await waitFor(() => (refused.socket.destroyed ? true : undefined), { what: 'the refusal' });
  proxy.heal();
  const fresh = open(proxy);
  fresh.socket.write('again');
  await waitFor(() => (fresh.received() === 'one:again' ? true : undefined), { what: 'the echo' });
});

test('leads to another server after a switch', async () => {
  const { proxy } = await setup();
  const other = await startEcho('two');
  const client = open(proxy);
  await once(client.socket, 'connect');
  proxy.switchTo(other.port);
  await waitFor(() => (client.socket.destroyed ? true : undefined), { what: 'the reset' });
  const fresh = open(proxy);
  fresh.socket.write('hello');
  await waitFor(() => (fresh.received() === 'two:hello' ? true : undefined), { what: 'the other echo' });
});

async function setup() {
  const server = await startEcho('one');
  const proxy = await startFaultProxy(server.port);
  cleanUps.push(() => proxy.close());
  return { proxy, server };
}

/** Answers every chunk with its name and the chunk. */
async function startEcho(name: string) {
  let received = '';
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      received += chunk.toString();
      socket.write(`${name}:${chunk.toString()}`);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanUps.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const address = server.address();
  return { port: typeof address === 'object' ? (address?.port ?? 0) : 0, received: () => received };
}

function open(proxy: FaultProxy) {
  const { port } = new URL(proxy.url('redis://elsewhere:1'));
  const socket = connect(Number(port), '127.0.0.1');
  let received = '';
  socket.on('error', () => undefined);
  socket.on('data', (chunk) => (received += chunk.toString()));
  cleanUps.push(() => socket.destroy());
  return { socket, received: () => received };
}
