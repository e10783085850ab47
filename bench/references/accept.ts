/** What many services do instead: an Express handler that adds the job to BullMQ and nothing else. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { Queue } from 'bullmq';
import express from 'express';
import { Redis } from 'ioredis';

const queue = new Queue('reference', {
  connection: new Redis(process.env['REDIS_URL'] ?? '', { maxRetriesPerRequest: null }),
});
const app = express();
app.use(express.json());
app.post('/jobs', async (req, res) => {
  const job = await queue.add('noop', req.body as object);
  res.status(202).json({ id: job.id });
});
const server = createServer(app).listen(0, '127.0.0.1');
await once(server, 'listening');
const address = server.address();
process.send?.({ port: typeof address === 'object' ? address?.port : undefined });
process.on('SIGTERM', () => process.exit());
