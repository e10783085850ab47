/**
 * The process that fs-storage.test.ts kills: stores 3 MiB under an id and dies at a crash point, or tells how far it has come.
 * Arguments: directory, id, crash point (or `none`), `stall` (the source never ends) or `end`.
 */
import { Readable } from 'node:stream';
import { armCrashPoint } from '#shared/crash-point.ts';
import { createFsStorage } from './fs-storage.ts';

const [dir = '', id = '', crashAt, ending] = process.argv.slice(2);
armCrashPoint(crashAt);

const source = new Readable({ read() {} });
for (let i = 0; i < 3; i += 1) source.push(Buffer.alloc(1024 * 1024, i));
if (ending === 'end') source.push(null);
// Keeps a stalled child alive until it is killed.
setInterval(() => {}, 60_000);
await createFsStorage({ dir }).put(id, source, { sizeBytesMax: 1024 * 1024 * 1024 });
process.stdout.write('stored\n');
