import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { findMail, listMailIds } from './mail-store.ts';
import { readMail, type Mail } from './read-mail.ts';

/**
 * The pages of the mail catcher: a list, a mail as text, its source. Mails are written by others: everything is
 * escaped, nothing is rendered, and the policy forbids what might slip through.
 */
export function answerMailPage(
  dir: string,
  { req, res }: { req: IncomingMessage; res: ServerResponse },
): void {
  for (const [name, value] of Object.entries(securityHeaders)) res.setHeader(name, value);
  // A page of somebody else whose name was pointed at 127.0.0.1 must not read the mails (DNS rebinding).
  if (!/^(127\.0\.0\.1|localhost)(:\d+)?$/.test(req.headers.host ?? ''))
    return answer(res, 403, 'text', 'Open this page by its own address.');
  if (req.method !== 'GET' && req.method !== 'HEAD') return answer(res, 405, 'text', 'Only GET.');
  const [, id = '', extension] = /^\/([0-9a-f-]*)(\.eml)?$/.exec(req.url ?? '') ?? [];
  if (req.url === '/') return answer(res, 200, 'html', listPage(dir));
  const source = findMail(dir, id);
  if (source === undefined) return answer(res, 404, 'text', 'There is no such e-mail (any more).');
  if (extension !== undefined) return answer(res, 200, 'text', source);
  return answer(res, 200, 'html', mailPage(id, readMail(source)));
}

const style =
  'body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:60rem}pre{white-space:pre-wrap;background:#f4f4f4;padding:1rem}td{padding:.2rem 1rem .2rem 0}';

const securityHeaders = {
  'Content-Security-Policy': `default-src 'none'; style-src 'sha256-${createHash('sha256').update(style).digest('base64')}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox`,
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cache-Control': 'no-store',
};

function answer(res: ServerResponse, status: number, type: 'html' | 'text', body: string | Buffer): void {
  res.writeHead(status, { 'Content-Type': `${type === 'html' ? 'text/html' : 'text/plain'}; charset=utf-8` });
  res.end(body);
}

function listPage(dir: string): string {
  const rows = listMailIds(dir).map((id) => {
    const source = findMail(dir, id);
    if (source === undefined) return '';
    const { headers } = readMail(source);
    return `<tr><td>${escape(headers['date'] ?? '')}</td><td>${escape(headers['to'] ?? headers['delivered-to'] ?? '')}</td><td><a href="/${id}">${escape(headers['subject'] ?? '') || '(no subject)'}</a></td></tr>`;
  });
  const list = rows.length === 0 ? '<p>No e-mail was sent yet.</p>' : `<table>${rows.join('\n')}</table>`;
  return page('E-mails', `<h1>E-mails</h1><p>Caught here, delivered nowhere. Newest first.</p>${list}`);
}

function mailPage(id: string, mail: Mail): string {
  const shown = ['from', 'to', 'cc', 'delivered-to', 'reply-to', 'date', 'subject'];
  const headers = shown.flatMap((name) => {
    const value = mail.headers[name];
    return value === undefined ? [] : [`<tr><td>${name}</td><td>${escape(value)}</td></tr>`];
  });
  const parts = mail.parts.map(
    (part) =>
      `<h2>${escape(part.mediaType)}${part.name === undefined ? '' : `, ${escape(part.name)}`}</h2>` +
      (part.text === undefined ? `<p>${part.sizeBytes} bytes</p>` : `<pre>${escape(part.text)}</pre>`),
  );
  const links = `<p><a href="/">All e-mails</a> · <a href="/${id}.eml">Source</a></p>`;
  return page(
    mail.headers['subject'] ?? '(no subject)',
    `${links}<table>${headers.join('\n')}</table>${parts.join('\n')}`,
  );
}

function page(title: string, body: string): string {
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escape(title)}</title><style>${style}</style>${body}</html>`;
}

function escape(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
