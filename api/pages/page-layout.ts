import { readFileSync } from 'node:fs';
import { readVersion } from '#shared/version.ts';
import { html, type Html } from './html.ts';

/** Nothing but our own style sheet: no script, no image, no font, and nobody may frame the page. */
export const pagePolicy =
  "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export const styleSheet = readFileSync(new URL('./pages.css', import.meta.url), 'utf8');

const version = readVersion();

/** @param prefix what stands before every path: empty, or the path of WINDLASS_PUBLIC_URL. */
export function renderPage(page: { title: string; prefix: string; content: Html }): string {
  const { title, prefix, content } = page;
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>${title}</title>
        <link rel="stylesheet" href="${prefix}/docs.css" />
      </head>
      <body>
        <header class="top">
          <a class="brand" href="${prefix}/">Windlass</a>
          <nav aria-label="Pages">
            <a href="${prefix}/docs">Reference</a>
            <a href="${prefix}/openapi.json">OpenAPI</a>
          </nav>
          <span class="version">${version}</span>
        </header>
        ${content}
      </body>
    </html> `.html;
}
