import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { readdir, readlink, rm, truncate } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import * as fc from 'fast-check';
import { pino } from 'pino';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { AppError } from '#shared/errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import type { Storage } from '#shared/storage/storage.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { serveFile, type ServedFile } from './serve-file.ts';
import { parseRange } from './serve-file-range.ts';

const digits = Buffer.from('0123456789');
const createdAt = new Date('2026-02-03T04:05:06.789Z');
const lastModified = 'Tue, 03 Feb 2026 04:05:06 GMT';

describe('a stored file', () => {
  test('is served with its digest, and so that a browser runs nothing of it (ASVS 3.2.1, 3.4.3, 3.4.4, 5.4.2)', async () => {
    const { get, file } = await setup(Buffer.from('<script>alert(1)</script>'), {
      name: 'naïve.html',
      mediaType: 'text/html',
    });
    const { status, headers, body } = await get();
    expect(status).toBe(200);
    expect(body.toString()).toBe('<script>alert(1)</script>');
    expect(headers).toEqual({
      'accept-ranges': 'bytes',
      'cache-control': 'private, no-store',
      'content-disposition': `attachment; filename="na_ve.html"; filename*=UTF-8''na%C3%AFve.html`,
      'content-length': '25',
      'content-security-policy': "sandbox; default-src 'none'; frame-ancestors 'none'",
      'content-type': 'text/html',
      'cross-origin-resource-policy': 'same-site',
      etag: `"${file.sha256}"`,
      'last-modified': lastModified,
      'repr-digest': `sha-256=:${Buffer.from(file.sha256, 'hex').toString('base64')}:`,
      'x-content-type-options': 'nosniff',
    });
  });

  test('answers HEAD with the headers of GET and no bytes', async () => {
    const { get } = await setup(digits);
    const head = await get({}, 'HEAD');
    expect(head).toEqual({ ...(await get()), body: Buffer.alloc(0) });
    expect((await get({ Range: 'bytes=0-1' }, 'HEAD')).status, 'a range is only for GET').toBe(200);
  });

  test('of 40 MiB arrives whole, and so does an empty one', async () => {
    const bytes = randomBytes(40 * 1024 * 1024);
    expect((await (await setup(bytes)).get()).body.equals(bytes)).toBe(true);
    expect(await (await setup(Buffer.alloc(0))).get()).toMatchObject({
      status: 200,
      headers: { 'content-length': '0' },
    });
  });

  test.for<[string, string | null, string, string]>([
    ['image/png', 'image/png', 'inline', 'image/png'],
    ['image/jpeg', null, 'inline', 'image/jpeg'],
    ['text/plain', null, 'inline', 'text/plain; charset=utf-8'],
    ['text/plain; charset=iso-8859-1', null, 'inline', 'text/plain; charset=iso-8859-1'],
    // What the bytes are counts more than what was declared.
    ['image/png', 'text/html', 'attachment', 'text/html'],
    ['image/png', 'image/svg+xml', 'attachment', 'image/svg+xml'],
    ['text/html', 'image/webp', 'inline', 'image/webp'],
    ['image/svg+xml', null, 'attachment', 'image/svg+xml'],
    ['text/html', null, 'attachment', 'text/html'],
    ['application/xhtml+xml', null, 'attachment', 'application/xhtml+xml'],
    ['text/xml', null, 'attachment', 'text/xml'],
    ['application/pdf', null, 'attachment', 'application/pdf'],
    ['text/csv', null, 'attachment', 'text/csv'],
    ['text/javascript', null, 'attachment', 'text/javascript'],
    ['image/png\r\nX-Evil: 1', null, 'attachment', 'application/octet-stream'],
  ])(
    'declared %j, found %j: shown on request as %s, of type %s',
    async ([mediaType, detectedType, disposition, type]) => {
      const { get } = await setup(digits, { mediaType, detectedType }, { disposition: 'inline' });
      const { headers } = await get();
      expect(headers['content-disposition']).toBe(`${disposition}; filename="f.bin"`);
      expect(headers['content-type']).toBe(type);
      const asked = await setup(digits, { mediaType, detectedType }, { disposition: 'attachment' });
      expect((await asked.get()).headers['content-disposition']).toBe('attachment; filename="f.bin"');
    },
  );
});

describe('ranges', () => {
  test.for<[string, string, string]>([
    ['bytes=0-0', 'bytes 0-0/10', '0'],
    ['bytes=0-4', 'bytes 0-4/10', '01234'],
    ['bytes=5-', 'bytes 5-9/10', '56789'],
    ['bytes=9-9', 'bytes 9-9/10', '9'],
    ['bytes=8-1000', 'bytes 8-9/10', '89'],
    ['bytes=-3', 'bytes 7-9/10', '789'],
    ['bytes=-1000', 'bytes 0-9/10', '0123456789'],
    ['Bytes=1-2', 'bytes 1-2/10', '12'],
    ['bytes=8-99999999999999999999999999', 'bytes 8-9/10', '89'],
  ])('%s is answered with 206 and %s', async ([range, contentRange, text]) => {
    const { get, file } = await setup(digits);
    const { status, headers, body } = await get({ Range: range });
    expect({
      status,
      range: headers['content-range'],
      length: headers['content-length'],
      text: body.toString(),
    }).toEqual({
      status: 206,
      range: contentRange,
      length: String(text.length),
      text,
    });
    expect(headers['etag']).toBe(`"${file.sha256}"`);
    expect(headers['repr-digest'], 'the digest of the whole').toContain(
      Buffer.from(file.sha256, 'hex').toString('base64'),
    );
  });

  test.for([
    'bytes=0-1,5-6',
    'bytes=',
    'bytes=-',
    'bytes=a-b',
    'bytes=5-2',
    'lines=1-2',
    'bytes 0-1',
    '0-1',
    'bytes=1-2x',
    'bytes=--1',
  ])('%s is answered with the whole file', async (range) => {
    const { get } = await setup(digits);
    expect(await get({ Range: range })).toMatchObject({ status: 200, body: digits });
  });

  test.for(['bytes=10-', 'bytes=10-20', 'bytes=-0', 'bytes=99999999999999999999999-'])(
    '%s is answered with 416 and the size',
    async (range) => {
      const { get } = await setup(digits);
      expect(await get({ Range: range })).toMatchObject({
        status: 416,
        headers: { 'content-range': 'bytes */10' },
      });
    },
  );

  test('an empty file has no range but itself', () => {
    expect(parseRange('bytes=0-', 0)).toBe('unsatisfiable');
    expect(parseRange('bytes=-5', 0)).toBe('whole');
  });

  test('of any file and header, the range lies within the file', () => {
    const end = fc.oneof(
      fc.constant(''),
      fc.nat({ max: 30 }).map(String),
      fc.bigInt({ min: 0n, max: 10n ** 30n }).map(String),
    );
    fc.assert(
      fc.property(end, end, fc.nat({ max: 20 }), (first, last, size) => {
        const range = parseRange(`bytes=${first}-${last}`, size);
        if (typeof range === 'string') return;
        expect(range.start).toBeGreaterThanOrEqual(0);
        expect(range.start).toBeLessThanOrEqual(range.end);
        expect(range.end).toBeLessThan(size);
        // What Array.slice makes of the same numbers.
        const all = Array.from({ length: size }, (_, i) => i);
        const expected =
          first === ''
            ? all.slice(-Number(last))
            : all.slice(Number(first), last === '' ? undefined : Number(last) + 1);
        expect(all.slice(range.start, range.end + 1)).toEqual(expected);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('conditions (RFC 9110, section 13)', () => {
  const earlier = 'Tue, 03 Feb 2026 04:05:05 GMT';
  const later = 'Tue, 03 Feb 2026 04:05:07 GMT';
  const etag = `"${createHash('sha256').update(digits).digest('hex')}"`;

  test.for<[Record<string, string>, number]>([
    [{ 'If-None-Match': etag }, 304],
    [{ 'If-None-Match': `W/${etag}` }, 304],
    [{ 'If-None-Match': `"a", "b,c", ${etag}` }, 304],
    [{ 'If-None-Match': '*' }, 304],
    [{ 'If-None-Match': '"other"' }, 200],
    [{ 'If-None-Match': etag.replaceAll('"', '') }, 200],
    [{ 'If-Modified-Since': lastModified }, 304],
    [{ 'If-Modified-Since': later }, 304],
    [{ 'If-Modified-Since': earlier }, 200],
    // The two obsolete forms of a date, which a recipient must take.
    [{ 'If-Modified-Since': 'Tuesday, 03-Feb-26 04:05:06 GMT' }, 304],
    [{ 'If-Modified-Since': 'Tue Feb  3 04:05:06 2026' }, 304],
    [{ 'If-Modified-Since': 'yesterday' }, 200],
    [{ 'If-Modified-Since': '2027' }, 200],
    // If-None-Match decides alone.
    [{ 'If-None-Match': '"other"', 'If-Modified-Since': later }, 200],
    [{ 'If-Match': etag }, 200],
    [{ 'If-Match': `"a", ${etag}` }, 200],
    [{ 'If-Match': '*' }, 200],
    [{ 'If-Match': '"other"' }, 412],
    [{ 'If-Match': `W/${etag}` }, 412],
    [{ 'If-Match': '' }, 412],
    [{ 'If-Unmodified-Since': lastModified }, 200],
    [{ 'If-Unmodified-Since': later }, 200],
    [{ 'If-Unmodified-Since': earlier }, 412],
    [{ 'If-Unmodified-Since': 'garbage' }, 200],
    // If-Match decides alone, and comes before If-None-Match.
    [{ 'If-Match': etag, 'If-Unmodified-Since': earlier }, 200],
    [{ 'If-Match': '"other"', 'If-None-Match': etag }, 412],
    [{ 'If-Unmodified-Since': earlier, 'If-None-Match': etag }, 412],
    [{ 'If-Match': etag, 'If-None-Match': etag }, 304],
    // Conditions come before the range.
    [{ 'If-None-Match': etag, Range: 'bytes=0-1' }, 304],
    [{ 'If-Match': '"other"', Range: 'bytes=50-' }, 412],
    [{ 'If-None-Match': etag, Range: 'bytes=50-' }, 304],
    [{ 'If-Range': etag, Range: 'bytes=0-1' }, 206],
    [{ 'If-Range': lastModified, Range: 'bytes=0-1' }, 206],
    [{ 'If-Range': '"other"', Range: 'bytes=0-1' }, 200],
    [{ 'If-Range': `W/${etag}`, Range: 'bytes=0-1' }, 200],
    [{ 'If-Range': later, Range: 'bytes=0-1' }, 200],
    [{ 'If-Range': earlier, Range: 'bytes=0-1' }, 200],
    [{ 'If-Range': 'garbage', Range: 'bytes=0-1' }, 200],
    [{ 'If-Range': '"other"', Range: 'bytes=50-' }, 200],
  ])('%j → %i', async ([headers, status]) => {
    // Dates are GMT wherever the server stands.
    vi.stubEnv('TZ', 'Asia/Tokyo');
    onTestFinished(() => void vi.unstubAllEnvs());
    const { get } = await setup(digits);
    expect((await get(headers)).status).toBe(status);
    if (headers['Range'] === undefined) expect((await get(headers, 'HEAD')).status).toBe(status);
  });

  test('304 has the validators and no body', async () => {
    const { get } = await setup(digits);
    expect(await get({ 'If-None-Match': etag })).toEqual({
      status: 304,
      headers: { 'cache-control': 'private, no-store', etag, 'last-modified': lastModified },
      body: Buffer.alloc(0),
    });
  });
});

describe('when the bytes are not there', () => {
  test.for(['GET', 'HEAD'])('%s is answered with 404, and logged: the row said otherwise', async (method) => {
    const { get, storage, file, logged } = await setup(digits);
    await storage.delete(file.id);
    expect((await get({}, method)).status).toBe(404);
    expect(logged()).toMatchObject([{ msg: 'the bytes of a stored file are missing', fileId: file.id }]);
  });

  test.for(['GET', 'HEAD'])(
    '%s of a file that lost some is answered with 500, and logged',
    async (method) => {
      const { get, dir, file, logged } = await setup(digits);
      await truncate(join(dir, file.id.slice(-2), file.id), 5);
      expect((await get({}, method)).status).toBe(500);
      expect(logged()).toMatchObject([{ msg: 'a stored file is damaged', expectedBytes: 10, foundBytes: 5 }]);
    },
  );

  test('a disk that fails in the middle breaks the connection, and is logged', async () => {
    const { get, logged } = await setup(
      digits,
      {},
      {
        wrap: (storage) => ({
          ...storage,
          read: async () =>
            Readable.from(
              (async function* () {
                yield Buffer.from('01');
                throw new Error('EIO');
              })(),
            ),
        }),
      },
    );
    await expect(get()).rejects.toThrow('terminated');
    expect(logged()).toMatchObject([{ msg: 'a stored file could not be read' }]);
  });
});

describe('a client', () => {
  test.for(['that goes away', 'that takes nothing'])(
    '%s in the middle leaves no open file, and no error in the log',
    async (how) => {
      const { port, dir, logged, serving } = await setup(
        randomBytes(32 * 1024 * 1024),
        {},
        { idleMs: how === 'that takes nothing' ? 100 : 60_000 },
      );
      const socket = connect(port, '127.0.0.1');
      socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
      await once(socket, 'readable');
      expect(await openFilesUnder(dir)).toHaveLength(1);
      if (how === 'that goes away') socket.destroy();
      await waitFor(() => serving() === 0 || undefined, { what: 'the answer to end' });
      await waitFor(async () => (await openFilesUnder(dir)).length === 0 || undefined, {
        what: 'the file to be closed',
      });
      expect(logged()).toEqual([]);
      socket.destroy();
    },
  );

  test('that asks with HEAD opens no file', async () => {
    let reads = 0;
    const wrap = (storage: Storage): Storage => ({
      ...storage,
      read: (...args) => {
        reads += 1;
        return storage.read(...args);
      },
    });
    const { get } = await setup(digits, {}, { wrap });
    await get({}, 'HEAD');
    expect(reads).toBe(0);
    await get();
    expect(reads).toBe(1);
  });
});

async function setup(
  bytes: Buffer,
  over: Partial<ServedFile> = {},
  options: {
    disposition?: 'inline' | 'attachment';
    idleMs?: number;
    wrap?: (storage: Storage) => Storage;
  } = {},
) {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-serve-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const storage = createFsStorage({ dir });
  const id = uuidv7();
  const stored = await storage.put(id, Readable.from([bytes]), { sizeBytesMax: Infinity });
  const file: ServedFile = {
    id,
    name: 'f.bin',
    mediaType: 'application/octet-stream',
    detectedType: null,
    createdAt,
    ...stored,
    ...over,
  };

  const lines: string[] = [];
  const log = pino({ base: null, timestamp: false }, { write: (line) => void lines.push(line) });
  let serving = 0;
  const answer = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    serving += 1;
    // Node adds these to every answer.
    res.sendDate = false;
    res.shouldKeepAlive = false;
    try {
      const { disposition = 'attachment', idleMs = 60_000, wrap = (same: Storage) => same } = options;
      await serveFile({ req, res, file, storage: wrap(storage), log, disposition, idleMs });
    } catch (err) {
      // What is not an AppError is a bug, and shows as one.
      res.writeHead(err instanceof AppError ? err.status : 599).end();
    } finally {
      serving -= 1;
    }
  };
  const server = createServer((req, res) => void answer(req, res)).listen(0, '127.0.0.1');
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
    file,
    port,
    serving: () => serving,
    logged: () => lines.map((line) => JSON.parse(line)),
    async get(headers: Record<string, string> = {}, method = 'GET') {
      const res = await fetch(`http://127.0.0.1:${port}/`, { method, headers });
      const { connection: _, ...received } = Object.fromEntries(res.headers);
      return { status: res.status, headers: received, body: Buffer.from(await res.arrayBuffer()) };
    },
  };
}

/** Paths below `dir` that this process has open; empty where there is no /proc. */
async function openFilesUnder(dir: string): Promise<string[]> {
  const fds = await readdir('/proc/self/fd').catch(() => []);
  const targets = await Promise.all(fds.map((fd) => readlink(join('/proc/self/fd', fd)).catch(() => '')));
  return targets.filter((target) => target.startsWith(dir));
}
