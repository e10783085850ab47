/** The least that storing an upload takes in Node: the body into a file, hashed on the way, fsynced. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { open, unlink } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';

const path = join(process.env['DATA_DIR'] ?? '', 'reference-upload');
const server = createServer((req, res) => {
  void (async () => {
    const hash = createHash('sha256');
    const hashing = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        hash.update(chunk);
        done(null, chunk);
      },
    });
    await pipeline(req, hashing, createWriteStream(path));
    const file = await open(path, 'r+');
    await file.sync();
    await file.close();
    res.writeHead(201).end(hash.digest('hex'));
    await unlink(path);
  })();
});
server.requestTimeout = 0;
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const address = server.address();
process.send?.({ port: typeof address === 'object' ? address?.port : undefined });
process.on('SIGTERM', () => process.exit());
