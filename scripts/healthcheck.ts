/**
 * The health check of both images: `node scripts/healthcheck.ts <port>` exits with 0 when /livez answers 200 there within 4 s,
 * otherwise it says why not and exits with 1. `docker inspect` shows what it said.
 */
const [port] = process.argv.slice(2);
const url = `http://127.0.0.1:${port}/livez`;

try {
  const response = await fetch(url, { signal: AbortSignal.timeout(4_000) });
  console.log(`${url}: ${response.status} ${await response.text()}`);
  process.exitCode = response.ok ? 0 : 1;
} catch (err) {
  console.log(`${url}: ${String(err instanceof Error ? (err.cause ?? err) : err)}`);
  process.exitCode = 1;
}
