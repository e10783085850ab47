import { createHash, randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import {
  createServer,
  request,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type ServerResponse,
} from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { AppError } from '#shared/errors.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import type { Storage } from '#shared/storage/storage.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createUploads, type UploadLimits } from './upload.ts';

const MiB = 1024 * 1024;
const limits: UploadLimits = {
  fileBytesMax: 8 * MiB,
  filesMax: 10,
  partsMax: 20,
  fieldsMax: 100,
  fieldBytesMax: 256 * 1024,
  perTenantMax: 64,
  diskUsedMax: 1,
  idleMs: 30_000,
  rateMin: 1_024,
  formMs: 60_000,
};
const hello = Buffer.from('hello');
const helloSha256 = createHash('sha256').update(hello).digest();
const helloSha512 = createHash('sha512').update(hello).digest();

describe('a body that is one file', () => {
  test('is stored under a new id, with a clean name, its type, size and SHA-256', async () => {
    const { send, storage } = await setup();
    const answer = await send(hello, {
      'Content-Type': 'text/plain; charset=UTF-8',
      'Content-Disposition': `attachment; filename="x"; filename*=UTF-8''..%2Fna%C3%AFve.txt`,
    });
    expect(answer).toEqual({
      status: 201,
      body: {
        id: answer.body.id,
        name: 'naïve.txt',
        mediaType: 'text/plain; charset=utf-8',
        sizeBytes: 5,
        sha256: helloSha256.toString('hex'),
      },
    });
    expect(await text(await storage.read(answer.body.id))).toBe('hello');
  });

  test('may have no name, no type, no declared length and no bytes', async () => {
    const { send } = await setup();
    const answer = await send(Buffer.alloc(0), { 'Transfer-Encoding': 'chunked' });
    expect(answer.body).toMatchObject({ name: 'file', mediaType: 'application/octet-stream', sizeBytes: 0 });
  });

  test.for<[string, OutgoingHttpHeaders]>([
    ['SHA-256', { 'Repr-Digest': `sha-256=:${helloSha256.toString('base64')}:` }],
    ['SHA-512', { 'Content-Digest': `sha-512=:${helloSha512.toString('base64')}:` }],
    [
      'both',
      {
        'Repr-Digest': `sha-512=:${helloSha512.toString('base64')}:, sha-256=:${helloSha256.toString('base64')}:`,
      },
    ],
    ['an algorithm that we do not know', { 'Repr-Digest': 'crc32c=:AAAAAA==:' }],
  ])('with the right digest is taken: %s', async ([, headers]) => {
    const { send } = await setup();
    expect((await send(hello, headers)).status).toBe(201);
  });

  test.for<[string, OutgoingHttpHeaders, string, string]>([
    [
      'SHA-256',
      { 'Repr-Digest': `sha-256=:${Buffer.alloc(32).toString('base64')}:` },
      'digest-mismatch',
      'sha-256',
    ],
    [
      'SHA-512',
      { 'Content-Digest': `sha-512=:${Buffer.alloc(64).toString('base64')}:` },
      'digest-mismatch',
      'sha-512',
    ],
    [
      'only one of two',
      {
        'Repr-Digest': `sha-256=:${helloSha256.toString('base64')}:, sha-512=:${Buffer.alloc(64).toString('base64')}:`,
      },
      'digest-mismatch',
      'sha-512',
    ],
    ['malformed', { 'Repr-Digest': 'sha-256=hello' }, 'bad-request', 'Repr-Digest'],
  ])('with a wrong digest is refused, and its bytes are deleted: %s', async ([, headers, code, message]) => {
    const { send, leftovers } = await setup();
    expect(await send(hello, headers)).toMatchObject({
      body: { code, message: expect.stringContaining(message) },
    });
    expect(await leftovers()).toEqual([]);
  });

  test('with a Content-Encoding is refused', async () => {
    const { send, leftovers } = await setup();
    expect((await send(hello, { 'Content-Encoding': 'gzip' })).body).toMatchObject({
      code: 'unsupported-media-type',
    });
    expect((await send(hello, { 'Content-Encoding': 'identity' })).status).toBe(201);
    expect(await leftovers()).toHaveLength(1);
  });
});

describe('limits', () => {
  test('F19: a body larger than allowed is refused, declared or not, and the client gets the answer', async () => {
    const { send, leftovers } = await setup({ fileBytesMax: MiB });
    const larger = Buffer.alloc(4 * MiB);
    const refused = {
      status: 413,
      body: {
        code: 'content-too-large',
        message: 'The file is larger than 1048576 bytes (WINDLASS_FILE_BYTES_MAX).',
      },
    };
    expect(await send(larger)).toEqual(refused);
    expect(await send(larger, { 'Transfer-Encoding': 'chunked' })).toEqual(refused);
    expect(await send(larger.subarray(0, MiB + 1), { 'Transfer-Encoding': 'chunked' })).toEqual(refused);
    expect((await send(larger.subarray(0, MiB), { 'Transfer-Encoding': 'chunked' })).status).toBe(201);
    expect(await leftovers()).toHaveLength(1);
  });

  test('a declared length over the limit is refused before anything is sent', async () => {
    const { port } = await setup({ fileBytesMax: MiB });
    const socket = openSocket(port);
    socket.write(`PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: ${MiB + 1}\r\n\r\n`);
    const [answer] = await once(socket, 'data');
    expect(String(answer)).toMatch(/^HTTP\/1\.1 413 /);
  });

  const form = 'Content-Type: multipart/form-data; boundary=b\r\n';
  test.for<[string, string, string]>([
    ['PUT', 'Content-Length: 50331648\r\n', '413'],
    ['PUT', 'Transfer-Encoding: chunked\r\n', '413'],
    ['POST', `${form}Content-Length: 50331648\r\n`, '400'],
  ])(
    'a client that writes everything before it reads gets the answer of a refusal, not a reset: %s, %j',
    async ([method, headers, status]) => {
      const { port } = await setup({ fileBytesMax: MiB });
      const socket = openSocket(port);
      socket.pause();
      socket.write(`${method} / HTTP/1.1\r\nHost: x\r\n${headers}\r\n`);
      // In a form it begins with a name that is refused.
      const chunk = Buffer.alloc(MiB);
      chunk.write('--b\r\nContent-Disposition: form-data; name="a[b]"\r\n\r\n');
      const isChunked = headers.includes('chunked');
      for (let i = 0; i < 48; i += 1) {
        if (isChunked) socket.write('100000\r\n');
        const isTaken = socket.write(chunk);
        if (isChunked) socket.write('\r\n');
        if (!isTaken) await once(socket, 'drain');
      }
      expect(await text(socket)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    },
  );

  test('one tenant may not have more uploads at once than its limit; another tenant may', async () => {
    const { port, send } = await setup({ perTenantMax: 1 });
    const first = openSocket(port);
    first.write('PUT / HTTP/1.1\r\nHost: x\r\nX-Tenant: a\r\nContent-Length: 5\r\n\r\nhel');
    await waitFor(async () => (await send(hello, { 'X-Tenant': 'a' })).status === 429 || undefined, {
      what: 'the slot to be taken',
    });
    expect(await send(hello, { 'X-Tenant': 'a' })).toMatchObject({
      status: 429,
      body: { code: 'too-many-uploads' },
    });
    expect((await send(hello, { 'X-Tenant': 'b' })).status).toBe(201);
    first.write('lo');
    await once(first, 'data');
    expect((await send(hello, { 'X-Tenant': 'a' })).status, 'the slot is free again').toBe(201);
    expect((await send(hello, { 'X-Tenant': 'a', 'Content-Encoding': 'x' })).status).toBe(415);
    expect((await send(hello, { 'X-Tenant': 'a' })).status, 'after an error as well').toBe(201);
  });

  test('F12: nothing is read while the disk is fuller than allowed; one look serves a second', async () => {
    let checks = 0;
    let usedShare: number | undefined = 0.95;
    const clock = vi.spyOn(performance, 'now');
    onTestFinished(() => clock.mockRestore());
    const { send, leftovers } = await setup({ diskUsedMax: 0.9 }, (storage) => ({
      ...storage,
      async check() {
        checks += 1;
        return { usedShare };
      },
    }));
    const now = performance.now();
    clock.mockImplementation(() => now);
    const refused = {
      status: 507,
      body: { code: 'storage-full', message: 'The storage is more than 90 % full (WINDLASS_DISK_USED_MAX).' },
    };
    expect(await Promise.all([send(hello), send(hello), sendForm(send, [['file', 'x']])])).toEqual([
      refused,
      refused,
      refused,
    ]);
    expect(checks).toBe(1);
    expect(await leftovers()).toEqual([]);
    usedShare = undefined;
    clock.mockImplementation(() => now + 2_000);
    expect((await send(hello)).status, 'a storage that cannot know is not full').toBe(201);
    expect(checks).toBe(2);
  });

  test('F14: a storage that cannot be written to is 503', async () => {
    const { send } = await setup({}, (storage) => ({
      ...storage,
      check: () => Promise.reject(new Error('EROFS')),
    }));
    expect(await send(hello)).toMatchObject({ status: 503, body: { code: 'unavailable' } });
  });
});

describe('F18: a client that is too slow', () => {
  test('is cut off with 408 when it sends nothing for too long', async () => {
    const { port, leftovers } = await setup({ idleMs: 50 });
    const socket = openSocket(port);
    socket.write('PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel');
    expect(await text(socket)).toMatch(
      /^HTTP\/1\.1 408 [^]*Nothing came for 50 ms \(WINDLASS_UPLOAD_IDLE_MS\)/,
    );
    expect(await leftovers()).toEqual([]);
  });

  test('is cut off in a form as well, between the parts', async () => {
    const { port } = await setup({ idleMs: 50 });
    const socket = openSocket(port);
    socket.write(
      'POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 500\r\n\r\n--b\r\nContent-Dis',
    );
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 408 /);
  });

  test('is cut off when the first file of its form has waited too long for the last: the sweep would take it for an orphan', async () => {
    const { port, leftovers } = await setup({ formMs: 50 });
    const socket = openSocket(port);
    socket.write(
      `POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 500\r\n\r\n${filePart}one\r\n${filePart}tw`,
    );
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 408 [^]*not complete 50 ms after its first file/);
    expect(await leftovers()).toEqual([]);
  });
});

describe('a form', () => {
  test('gives its fields and its stored files', async () => {
    const { send, storage } = await setup();
    const { body } = await sendForm(send, [
      ['task', 'x'],
      ['file', 'one'],
      ['input', '{}'],
      ['file', 'two'],
    ]);
    expect(body.fields).toEqual({ task: 'x', input: '{}' });
    const files: { id: string; name: string; sizeBytes: number }[] = body.files;
    expect(files.map((file) => [file.name, file.sizeBytes])).toEqual([
      ['f.txt', 3],
      ['f.txt', 3],
    ]);
    expect(await Promise.all(files.map(async (file) => text(await storage.read(file.id))))).toEqual([
      'one',
      'two',
    ]);
  });

  test('with a Content-Encoding is refused', async () => {
    const { send } = await setup();
    const headers = { 'Content-Type': 'multipart/form-data; boundary=b', 'Content-Encoding': 'gzip' };
    expect(await send(Buffer.from('--b--'), headers, 'POST')).toMatchObject({ status: 415 });
  });

  test('that fails late keeps none of the files that were stored before', async () => {
    const { send, leftovers } = await setup({ fileBytesMax: MiB });
    const parts: [string, string][] = [
      ['file', 'one'],
      ['file', 'two'],
      ['file', 'x'.repeat(MiB + 1)],
    ];
    expect(await sendForm(send, parts)).toMatchObject({ status: 413, body: { code: 'content-too-large' } });
    expect(
      await sendForm(send, [
        ['file', 'one'],
        ['task', 'a'],
        ['task', 'a'],
      ]),
    ).toMatchObject({ status: 400, body: { code: 'invalid-multipart' } });
    expect(await leftovers()).toEqual([]);
  });
});

describe('a client that goes away', () => {
  test.for<[string, string, (socket: Socket) => void]>([
    ['F17: by a reset', 'PUT', (socket) => socket.resetAndDestroy()],
    ['F17: by a reset, in a form', 'POST', (socket) => socket.resetAndDestroy()],
    ['by closing', 'PUT', (socket) => socket.destroy()],
    ['F19: by ending before the declared length', 'PUT', (socket) => socket.end()],
    ['F19: by ending before the declared length, in a form', 'POST', (socket) => socket.end()],
  ])('leaves nothing behind: %s', async ([, method, leave]) => {
    const { port, dir, leftovers, failures } = await setup();
    const socket = openSocket(port);
    socket.write(
      `${method} / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: ${4 * MiB}\r\n\r\n${filePart}`,
    );
    for (let i = 0; i < 2; i += 1) socket.write(Buffer.alloc(MiB, 'x'));
    await waitFor(async () => (await readdir(join(dir, 'parts')).catch(() => [])).length > 0 || undefined, {
      what: 'a part',
    });
    leave(socket);
    await waitFor(() => failures.length > 0 || undefined, { what: 'the upload to fail' });
    expect(failures).toEqual(['upload-incomplete']);
    expect(await leftovers()).toEqual([]);
  });

  test('F19: a chunked body without end is no upload', async () => {
    const { port, leftovers, failures } = await setup();
    const socket = openSocket(port);
    socket.end('PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n');
    await waitFor(() => failures.length > 0 || undefined, { what: 'the upload to fail' });
    expect(failures).toEqual(['upload-incomplete']);
    expect(await leftovers()).toEqual([]);
  });

  test('F19: a form whose closing boundary has come, but not the rest of the declared length, is no upload', async () => {
    const { port, leftovers, failures } = await setup();
    const socket = openSocket(port);
    socket.end(
      `POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n${filePart}x\r\n--b--\r\n`,
    );
    await waitFor(() => failures.length > 0 || undefined, { what: 'the upload to fail' });
    expect(failures).toEqual(['upload-incomplete']);
    expect(await leftovers()).toEqual([]);
  });

  test('F19: a body that goes on after its declared length is no upload', async () => {
    const { port, leftovers, failures } = await setup();
    openSocket(port).end('PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello and more');
    await waitFor(() => failures.length > 0 || undefined, { what: 'the upload to fail' });
    expect(failures).toEqual(['upload-incomplete']);
    expect(await leftovers()).toEqual([]);
  });

  test('F16: after 1,000 uploads given up at random offsets, no descriptor, part or file is left', async () => {
    const { port, dir, leftovers, uploading } = await setup({ perTenantMax: 1_000 });
    const body = Buffer.concat([
      Buffer.from(filePart),
      randomBytes(300_000),
      Buffer.from(
        '\r\n--b\r\nContent-Disposition: form-data; name="task"\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="g"\r\n\r\n',
      ),
      randomBytes(100_000),
      Buffer.from('\r\n--b--\r\n'),
    ]);
    const giveUp = async (i: number): Promise<void> => {
      const isForm = i % 2 === 0;
      const socket = openSocket(port);
      await once(socket, 'connect');
      socket.write(
        `${isForm ? 'POST' : 'PUT'} / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: ${body.length}\r\n\r\n`,
      );
      // Half of them stop early, where the headers of the first part are.
      const offset = i % 4 < 2 ? randomInt(body.length) : randomInt(200);
      await new Promise((resolve) => socket.write(body.subarray(0, offset), resolve));
      if (i % 3 === 0) socket.destroy();
      else socket.resetAndDestroy();
      await new Promise((resolve) => socket.once('close', resolve));
    };
    await giveUp(0);
    await waitFor(() => uploading() === 0 || undefined, { what: 'the first upload to end' });
    const descriptors = await countDescriptors();
    for (let i = 0; i < 1_000; i += 20)
      await Promise.all(Array.from({ length: 20 }, (_, j) => giveUp(i + j)));
    await waitFor(() => uploading() === 0 || undefined, { what: 'all uploads to end', seen: uploading });
    expect(await leftovers()).toEqual([]);
    expect(await readdir(join(dir, 'parts'))).toEqual([]);
    await waitFor(async () => (await countDescriptors()) <= descriptors || undefined, {
      what: 'the descriptors to be closed',
    });
  });
});

const filePart = '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n';

/** A server whose PUT takes a file and whose POST takes a form, as the routes do. */
async function setup(
  over: Partial<UploadLimits> = {},
  wrap: (storage: Storage) => Storage = (storage) => storage,
) {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-upload-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const storage = createFsStorage({ dir });
  const uploads = createUploads({
    storage: wrap(storage),
    quota: { take: async () => () => {} },
    limits: { ...limits, ...over },
  });
  const failures: string[] = [];
  let uploading = 0;

  const receive = async (req: IncomingMessage): Promise<unknown> => {
    const tenantId = String(req.headers['x-tenant'] ?? 'default');
    if (req.method === 'PUT') return uploads.receiveFile(req, { tenantId });
    const form = await uploads.receiveForm(req, { tenantId });
    return { fields: Object.fromEntries(form.fields), files: form.files };
  };
  const answer = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    uploading += 1;
    try {
      const stored = await receive(req);
      res.writeHead(201).end(JSON.stringify(stored));
    } catch (err) {
      // What is not an AppError is a bug, and shows as one.
      const { status, code, message } =
        err instanceof AppError ? err : { status: 500, code: String(err), message: '' };
      failures.push(code);
      if (!req.complete) res.setHeader('Connection', 'close');
      res.writeHead(status).end(JSON.stringify({ code, message }));
    } finally {
      uploading -= 1;
    }
  };
  const server = createServer({ requestTimeout: 0 }, (req, res) => void answer(req, res));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  // A TCP server that listens has an address with a port.
  const { port } = server.address() as AddressInfo;

  return {
    dir,
    storage,
    port,
    failures,
    uploading: () => uploading,
    send: (body: Buffer, headers: OutgoingHttpHeaders = {}, method = 'PUT') =>
      send({ port, body, headers, method }),
    /** Every stored file and every part. */
    async leftovers() {
      const ids: string[] = [];
      for await (const { id } of storage.list()) ids.push(id);
      return [...ids, ...(await readdir(join(dir, 'parts')).catch(() => []))];
    },
  };
}

type Send = Awaited<ReturnType<typeof setup>>['send'];

async function send(options: { port: number; body: Buffer; headers: OutgoingHttpHeaders; method: string }) {
  const { port, body, method } = options;
  const req = request({ port, host: '127.0.0.1', method, agent: false, headers: { ...options.headers } });
  if (options.headers['Transfer-Encoding'] === undefined) req.setHeader('Content-Length', body.length);
  // The server may answer and close before all was written.
  req.on('error', () => {});
  req.end(body);
  const [res] = (await once(req, 'response')) as [IncomingMessage];
  return { status: res.statusCode, body: JSON.parse(await text(res)) };
}

function sendForm(send: Send, parts: readonly (readonly [string, string])[]) {
  const body = parts
    .map(
      ([name, value]) =>
        `--b\r\nContent-Disposition: form-data; name="${name}"${name === 'file' ? '; filename="f.txt"' : ''}\r\n\r\n${value}\r\n`,
    )
    .join('');
  return send(Buffer.from(`${body}--b--\r\n`), { 'Content-Type': 'multipart/form-data; boundary=b' }, 'POST');
}

function openSocket(port: number): Socket {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  onTestFinished(() => void socket.destroy());
  return socket;
}

async function countDescriptors(): Promise<number> {
  return (await readdir('/proc/self/fd').catch(() => [])).length;
}
