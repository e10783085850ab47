import type { Request } from 'express';

/** Set once by createApp from WINDLASS_PUBLIC_URL. */
const publicUrlKey = 'windlass public url';

/** `https://jobs.example.com`, without a slash at the end: the configured URL, or the one of the request. */
export function baseUrl(req: Request): string {
  const configured: unknown = req.app.get(publicUrlKey);
  if (typeof configured === 'string') return configured;
  const host = req.headers.host ?? 'localhost';
  // The header is a client's text and ends up in links: only what a host and port can be.
  const url = `${req.protocol}://${host}`;
  return /^[\w.:[\]-]{1,255}$/.test(host) && URL.canParse(url) ? url : `${req.protocol}://localhost`;
}

export function setPublicUrl(
  app: { set(key: string, value: unknown): unknown },
  url: string | undefined,
): void {
  if (url !== undefined) app.set(publicUrlKey, url.replace(/\/+$/, ''));
}
