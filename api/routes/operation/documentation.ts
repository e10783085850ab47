import { z } from 'zod';
import { AppError } from '#shared/errors.ts';
import { pagePolicy, styleSheet } from '../../pages/page-layout.ts';
import { renderDocsPage } from '../../pages/docs-page.ts';
import { renderHomePage } from '../../pages/home-page.ts';
import type { ApiDeps } from '../../deps.ts';
import { defineRoute, type Route, type RouteContext } from '../../http/define-route.ts';
import { baseUrl } from '../../http/links.ts';
import { createOpenApi } from '../../openapi.ts';
import type { OpenApiDocument } from '../../openapi/document.ts';
import { isErrorCode, renderProblemPage } from '../../pages/problem-page.ts';
import type { ApiTask } from '../../task-catalog.ts';

type Context = Pick<RouteContext<unknown, unknown, unknown>, 'deps' | 'req' | 'res'>;

const page = { description: 'A page.', contentType: 'text/html' };

/** The routes that describe the others, and themselves. */
export function createDocumentationRoutes(others: readonly Route[]): Route[] {
  // Made once: it takes milliseconds, and anyone may ask for it.
  const documents = new WeakMap<ApiDeps['tasks'], OpenApiDocument>();
  function getDocument({ deps, req }: Pick<Context, 'deps' | 'req'>): OpenApiDocument {
    const document =
      documents.get(deps.tasks) ?? createOpenApi({ routes: [...others, ...own], tasks: deps.tasks });
    documents.set(deps.tasks, document);
    return { ...document, servers: [{ url: baseUrl(req) }] };
  }

  const own: Route[] = [
    defineRoute({
      method: 'get',
      path: '/openapi.json',
      scope: 'public',
      tag: 'Operation',
      summary: 'This API as an OpenAPI document',
      description: 'OpenAPI 3.1, with the inputs and results of the tasks of this very service.',
      responses: {
        200: { description: 'The document.', schema: z.looseObject({ openapi: z.literal('3.1.1') }) },
      },
      handle(ctx) {
        ctx.res.json(getDocument(ctx));
        return Promise.resolve();
      },
    }),
    defineRoute({
      method: 'get',
      path: '/docs',
      scope: 'public',
      tag: 'Operation',
      summary: 'This API as a page',
      responses: { 200: page },
      handle(ctx) {
        sendPage(
          ctx,
          renderDocsPage({ document: getDocument(ctx), tasks: listTasks(ctx), prefix: prefixOf(ctx) }),
        );
        return Promise.resolve();
      },
    }),
    defineRoute({
      method: 'get',
      path: '/docs.css',
      scope: 'public',
      tag: 'Operation',
      summary: 'The style sheet of the pages',
      responses: { 200: { description: 'The style sheet.', contentType: 'text/css' } },
      handle({ res }) {
        res.setHeader('Cache-Control', 'public, max-age=300');
        res.type('text/css').send(styleSheet);
        return Promise.resolve();
      },
    }),
    defineRoute({
      method: 'get',
      path: '/problems/:code',
      scope: 'public',
      tag: 'Operation',
      summary: 'What a problem means',
      description: 'The `type` of every problem leads here.',
      params: z.object({ code: z.string().meta({ examples: ['invalid-input'] }) }),
      responses: { 200: page },
      problems: ['not-found'],
      handle(ctx) {
        const { code } = ctx.params;
        if (!isErrorCode(code))
          throw new AppError(
            'not-found',
            `There is no problem "${code.slice(0, 100)}". /docs#errors lists all.`,
          );
        sendPage(ctx, renderProblemPage({ code, routes: [...others, ...own], prefix: prefixOf(ctx) }));
        return Promise.resolve();
      },
    }),
    defineRoute({
      method: 'get',
      path: '/',
      scope: 'public',
      tag: 'Operation',
      summary: 'Where to begin',
      responses: { 200: page },
      handle(ctx) {
        sendPage(ctx, renderHomePage({ tasks: listTasks(ctx), prefix: prefixOf(ctx) }));
        return Promise.resolve();
      },
    }),
  ];
  return own;
}

function sendPage({ res }: Pick<Context, 'res'>, text: string): void {
  res.setHeader('Content-Security-Policy', pagePolicy);
  res.type('text/html').send(text);
}

function listTasks({ deps }: Pick<Context, 'deps'>): ApiTask[] {
  return [...deps.tasks.values()].toSorted((a, b) => (a.definition.name < b.definition.name ? -1 : 1));
}

/** The path of WINDLASS_PUBLIC_URL, so that links hold behind a proxy that serves us below one. */
function prefixOf({ req }: Pick<Context, 'req'>): string {
  return new URL(baseUrl(req)).pathname.replace(/\/+$/, '');
}
