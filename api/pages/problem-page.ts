import { errorTable, type ErrorCode } from '#shared/errors.ts';
import { renderPage } from './page-layout.ts';
import { html } from './html.ts';
import type { Route } from '#api/http/define-route.ts';
import { listProblems } from '#api/openapi.ts';
import { operationId } from '#api/openapi/operation-id.ts';

/** What a `type` of a problem leads to: the code, explained. */
export function renderProblemPage(page: {
  code: ErrorCode;
  routes: readonly Route[];
  prefix: string;
}): string {
  const { code, routes, prefix } = page;
  const { title, status, retryable } = errorTable[code];
  const calls = routes.filter((route) => listProblems(route).includes(code));
  return renderPage({
    title: `${code} — Windlass`,
    prefix,
    content: html` <main class="narrow">
      <p class="label">Problem</p>
      <h1><code>${code}</code></h1>
      <p class="lead">${title}.</p>
      <dl class="facts-list">
        <dt>HTTP status</dt>
        <dd>${status}</dd>
        <dt>Retry?</dt>
        <dd>
          ${retryable ? 'The same request may succeed later. Wait as long as Retry-After says, or longer each time.' : 'The same request will fail again. Change it first; detail and errors say what.'}
        </dd>
        ${
          calls.length > 0 &&
          html`<dt>Answered by</dt>
            <dd>
              <ul>
                ${calls.map(
                  (route) =>
                    html`<li>
                      <a href="${prefix}/docs#${operationId(route)}"
                        ><code
                          >${route.method.toUpperCase()} ${route.path.replaceAll(/:(\w+)/g, '{$1}')}</code
                        ></a
                      >
                    </li>`,
                )}
              </ul>
            </dd>`
        }
        ${
          calls.length === 0 &&
          html`<dt>Where</dt>
            <dd>In <code>error.code</code> of a job that failed.</dd>`
        }
      </dl>
      <p><a href="${prefix}/docs#errors">All errors</a></p>
    </main>`,
  });
}

export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(errorTable, text);
}
