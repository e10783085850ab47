/** The reference at /docs: the OpenAPI document as one page, without a script. */
import { errorTable, type ErrorCode } from '#shared/errors.ts';
import { renderPage } from './page-layout.ts';
import { renderParameters, renderSchema, renderType, schemaAnchor } from './docs-page-schema.ts';
import { html, paragraphs, prose, type Html } from './html.ts';
import { formatJson, quote } from '#api/openapi/curl-examples.ts';
import type { JsonSchema } from '#api/openapi/json-schema.ts';
import type { CodeSample, OpenApiDocument, Operation, ResponseObject } from '#api/openapi/document.ts';
import type { ApiTask } from '#api/task-catalog.ts';

interface Call {
  readonly method: string;
  readonly path: string;
  readonly operation: Operation;
}

export function renderDocsPage(page: {
  document: OpenApiDocument;
  tasks: readonly ApiTask[];
  prefix: string;
}): string {
  const { document, tasks, prefix } = page;
  const baseUrl = document.servers[0]?.url ?? '';
  const groups = groupCalls(document);
  const named = Object.entries(document.components.schemas).filter(
    ([name]) => !/^(?:NewJob|TaskInput|TaskResult)\./.test(name),
  );
  return renderPage({
    title: 'Windlass API reference',
    prefix,
    content: html` <div class="columns">
      ${renderContents(groups, tasks)}
      <main>
        <h1>Windlass API</h1>
        <p class="lead">${document.info['description'] as string}</p>
        ${renderIntroduction(baseUrl, prefix)}
        ${groups.map(
          ({ name, description, calls }) =>
            html` <section class="group" id="${anchor(name)}">
              <h2>${name}</h2>
              <p>${prose(description)}</p>
              ${calls.map(renderCall)}
            </section>`,
        )}
        <section class="group" id="tasks-and-inputs">
          <h2>Inputs and results of tasks</h2>
          <p>
            What <code>input</code> of <a href="#createJob">a new job</a> may hold, and what its
            <code>result</code> will.
          </p>
          ${tasks.map((task) => renderTask(task, document.components.schemas))}
        </section>
        <section class="group" id="schemas">
          <h2>Schemas</h2>
          ${named.map(
            ([name, schema]) =>
              html`<article class="schema" id="${schemaAnchor(name)}">
                <h3>${name}</h3>
                ${schema.description !== undefined && html`<p>${prose(schema.description)}</p>`}${renderSchema(schema)}
              </article>`,
          )}
        </section>
        ${renderErrors(prefix)}
      </main>
    </div>`,
  });
}

function groupCalls(document: OpenApiDocument): { name: string; description: string; calls: Call[] }[] {
  const calls = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]): Call => ({
      method: method.toUpperCase(),
      path,
      operation,
    })),
  );
  return document.tags.map(({ name, description }) => ({
    name,
    description,
    calls: calls.filter((call) => call.operation.tags.includes(name)),
  }));
}

function anchor(name: string): string {
  return name.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
}

function renderContents(groups: ReturnType<typeof groupCalls>, tasks: readonly ApiTask[]): Html {
  return html`<nav class="contents" aria-label="Contents">
    <details>
      <summary>Contents</summary>
      <h4><a href="#introduction">Introduction</a></h4>
      ${groups.map(
        ({ name, calls }) =>
          html`<h4><a href="#${anchor(name)}">${name}</a></h4>
            <ul>
              ${calls.map(({ operation }) => html`<li><a href="#${operation.operationId}">${operation.summary}</a></li>`)}
            </ul>`,
      )}
      <h4><a href="#tasks-and-inputs">Inputs and results</a></h4>
      <ul>
        ${tasks.map(({ definition }) => html`<li><a href="#task-${definition.name}">${definition.name}</a></li>`)}
      </ul>
      <h4><a href="#schemas">Schemas</a></h4>
      <h4><a href="#errors">Errors</a></h4>
    </details>
  </nav>`;
}

function renderIntroduction(baseUrl: string, prefix: string): Html {
  return html`<section class="group" id="introduction">
    <h2>Introduction</h2>
    <p>
      Put the address and your key into two variables, and every example on this page can be pasted as it is.
    </p>
    <pre><code>export WINDLASS_URL=${quote(baseUrl)}
export WINDLASS_KEY=wl_live_…</code></pre>
    <p>Send a job, and wait for its end:</p>
    <pre><code>curl "$WINDLASS_URL/v1/jobs" -H "Authorization: Bearer $WINDLASS_KEY" \\
  -F task=image.resize -F 'input={"width":320,"format":"webp"}' -F file=@photo.jpg
curl -L "$WINDLASS_URL/v1/jobs/{id}/result?wait=60" \\
  -H "Authorization: Bearer $WINDLASS_KEY" -o small.webp</code></pre>
    <h3>Keys</h3>
    <p>
      Every call under <code>/v1</code> needs <code>Authorization: Bearer wl_live_…</code>. A key belongs to a
      tenant and has scopes. It sees jobs and files of its own tenant only; whatever belongs to others answers
      404, as if it did not exist.
    </p>
    <h3>What 202 means</h3>
    <p>
      The job is stored durably. It runs, whatever crashes or restarts in between. Ask for it with
      <code>?wait=30</code> and the answer comes when it has ended, or after 30 seconds.
    </p>
    <h3>Sending a request again</h3>
    <p>
      Add an <code>Idempotency-Key</code> of your choice to a <code>POST</code> that makes a job or a file,
      and send it as often as you like within 24 hours: you get one job and the same answer, with
      <code>Idempotency-Replayed: true</code>. The same key with other content is refused with
      <a href="${prefix}/problems/idempotency-mismatch">idempotency-mismatch</a>.
    </p>
    <h3>Errors and limits</h3>
    <p>
      Errors are <code>application/problem+json</code>: <code>code</code> is for programs,
      <code>detail</code> says what to do, <code>errors</code> points at the fields.
      <code>retryable</code> says whether the same request may succeed later; then
      <code>Retry-After</code> often says when. <code>RateLimit</code> and <code>RateLimit-Policy</code> tell
      how many requests are left. These may be the answer to any call and are not repeated below:
    </p>
    <dl class="answers">
      ${[...commonAnswers].map(([status, description]) => renderResponse(status, { description }))}
    </dl>
    <h3>Lists</h3>
    <p>
      Lists answer <code>data</code> and <code>nextCursor</code>. Send <code>nextCursor</code> back as
      <code>cursor</code>, with the same query, until it is null.
    </p>
  </section>`;
}

function renderCall({ method, path, operation }: Call): Html {
  const [requirement] = operation.security;
  const [scope] = Object.values(requirement ?? {}).flat();
  return html` <article class="call" id="${operation.operationId}">
    <h3>${operation.summary}</h3>
    <p class="address">
      <span class="method ${method.toLowerCase()}">${method}</span> <code>${path}</code>
      <span class="scope">${scope === undefined ? 'no key needed' : html`scope <code>${scope}</code>`}</span>
    </p>
    ${operation.description !== undefined && paragraphs(operation.description)}
    ${operation['x-codeSamples'].map((sample, _, all) => renderSample(sample, all.length > 1))}
    ${
      operation.parameters.length > 0 &&
      html`<h4>Parameters</h4>
        ${renderParameters(operation.parameters)}`
    }
    ${renderBody(operation)}
    <h4>Answers</h4>
    <dl class="answers">
      ${listAnswers(operation).map(([status, response]) => renderResponse(status, response))}
    </dl>
  </article>`;
}

function renderSample({ label, source }: CodeSample, isOneOfMany: boolean): Html {
  return html`${isOneOfMany && html`<p class="label">${label}</p>`}
    <pre><code>${source}</code></pre>`;
}

function renderBody({ requestBody }: Operation): Html | false {
  if (requestBody === undefined) return false;
  return html`<h4>Body</h4>
    ${Object.entries(requestBody.content).map(
      ([mediaType, { description, schema }]) =>
        html` <p>
            <code>${mediaType}</code
            >${description !== undefined && html` ${prose(description)}`}${schema?.description !== undefined && html` ${prose(schema.description)}`}${schema !== undefined && schema.properties === undefined && html` <span class="type">${renderBodyType(schema)}</span>`}
          </p>
          ${schema !== undefined && renderSchema(schema)}`,
    )}`;
}

function renderBodyType(schema: JsonSchema): Html {
  if (schema.discriminator === undefined) return renderType(schema);
  return html`one of
  ${(schema.oneOf ?? []).map(({ $ref }, index) => {
    const name = $ref?.replace(/^.*\/NewJob\./, '') ?? '';
    return html`${index > 0 && ', '}<a href="#task-${name}">${name}</a>`;
  })}`;
}

/** What any call may answer is said once, in the introduction. */
const common = [
  'unauthorized',
  'forbidden',
  'rate-limited',
  'internal',
  'unavailable',
] as const satisfies ErrorCode[];
const commonAnswers = new Map(
  common.map((code) => [String(errorTable[code].status), `\`${code}\`: ${errorTable[code].title}.`]),
);

function listAnswers({ responses }: Operation): [string, ResponseObject][] {
  return Object.entries(responses).filter(
    ([status, response]) => commonAnswers.get(status) !== response.description,
  );
}

function renderResponse(status: string, { description, headers, content }: ResponseObject): Html {
  const types = Object.entries(content ?? {})
    .filter(([mediaType]) => mediaType !== 'application/problem+json')
    .map(([mediaType, { schema }]) =>
      schema === undefined ? html`<code>${mediaType}</code>` : renderType(schema),
    );
  return html`<dt class="status-${status.charAt(0)}">${status}</dt>
    <dd>
      ${paragraphs(description)}${types.length > 0 && html`<p class="facts">${types}</p>`}${headers !== undefined && html`<p class="facts">${Object.entries(headers).map(([name, header]) => html`<code>${name}</code>: ${prose(header.description)} `)}</p>`}
    </dd>`;
}

function renderTask({ definition }: ApiTask, schemas: Readonly<Record<string, JsonSchema>>): Html {
  const { name, title, description, attempts, timeoutMs, queue, example } = definition;
  const body = formatJson({ task: name, input: example });
  const source = `curl -X POST "$WINDLASS_URL/v1/jobs" \\
  -H "Authorization: Bearer $WINDLASS_KEY" \\
  -H 'Content-Type: application/json' \\
  -d ${quote(body)}`;
  return html` <article class="task" id="task-${name}">
    <h3><code>${name}</code></h3>
    <p><strong>${title}.</strong> ${prose(description)}</p>
    <p class="facts">
      queue <code>${queue}</code> · ${attempts.default} attempts (at most ${attempts.max}) · time limit
      ${timeoutMs.default / 1_000} s (at most ${timeoutMs.max / 1_000} s)
    </p>
    <pre><code>${source}</code></pre>
    <h4>Input</h4>
    ${renderSchema(schemas[`TaskInput.${name}`] ?? {})}
    <h4>Result</h4>
    ${renderSchema(schemas[`TaskResult.${name}`] ?? {})}
  </article>`;
}

function renderErrors(prefix: string): Html {
  return html`<section class="group" id="errors">
    <h2>Errors</h2>
    <p>The same codes stand in <code>error.code</code> of a failed job.</p>
    <div class="wide">
      <table>
        <thead>
          <tr>
            <th>code</th>
            <th>status</th>
            <th>retry?</th>
            <th>meaning</th>
          </tr>
        </thead>
        <tbody>
          ${Object.entries(errorTable).map(
            ([code, { status, retryable, title }]) =>
              html`<tr>
                <td>
                  <a href="${prefix}/problems/${code}"><code>${code}</code></a>
                </td>
                <td>${status}</td>
                <td>${retryable ? 'yes' : 'no'}</td>
                <td>${title}</td>
              </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}
