import { renderPage } from './page-layout.ts';
import { html, prose } from './html.ts';
import type { ApiTask } from '#api/task-catalog.ts';

/** The page at `/`: what this is, and where to go. */
export function renderHomePage(page: { tasks: readonly ApiTask[]; prefix: string }): string {
  const { tasks, prefix } = page;
  return renderPage({
    title: 'Windlass',
    prefix,
    content: html` <main class="narrow">
      <h1>Windlass</h1>
      <p class="lead">This service takes jobs over HTTP and does the heavy lifting in the background.</p>
      <ul class="doors">
        <li>
          <a href="${prefix}/docs"><strong>API reference</strong> Every call, with examples to paste</a>
        </li>
        <li>
          <a href="${prefix}/openapi.json"><strong>OpenAPI</strong> The same for programs</a>
        </li>
        <li>
          <a href="${prefix}/readyz"><strong>Health</strong> Can this process take requests?</a>
        </li>
      </ul>
      <h2>Tasks</h2>
      <dl class="fields">
        ${tasks.map(
          ({ definition: { name, title, description } }) =>
            html` <dt>
                <a href="${prefix}/docs#task-${name}"><code>${name}</code></a> ${title}
              </dt>
              <dd><p>${prose(description)}</p></dd>`,
        )}
      </dl>
    </main>`,
  });
}
