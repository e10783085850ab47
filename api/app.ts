/** The middleware in its order, and the mounting of all routes. */
import express, { type Express, type Request, type RequestHandler } from 'express';
import helmet from 'helmet';
import { z } from 'zod';
import { AppError } from '#shared/errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import type { ApiDeps } from './deps.ts';
import { hasScope } from './http/authenticate.ts';
import type { Identity, Route } from './http/define-route.ts';
import { createErrorHandler } from './http/error-handler.ts';
import { simplifyJson } from './http/express-messages.ts';
import { setPublicUrl } from './http/links.ts';
import { parseWith, toFieldErrors } from './http/read-json.ts';
import { routes } from './routes.ts';

export function createApp(deps: ApiDeps): Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', 'simple');
  app.set('trust proxy', false);
  simplifyJson(app);
  setPublicUrl(app, deps.config.WINDLASS_PUBLIC_URL);
  app.use(createHeaders());
  for (const route of routes) app[route.method](route.path, createHandler(deps, route));
  app.use(createFallback());
  app.use(createErrorHandler(deps.log));
  return app;
}

/**
 * `X-Request-Id`, and headers about security. Pages get all of helmet. Calls answer JSON or files to programs: they get the
 * headers that say something about those (OWASP REST Security Cheat Sheet), because eight more on every answer took a
 * twentieth of the time of a call.
 */
function createHeaders(): RequestHandler {
  const contentSecurityPolicy =
    "default-src 'none';base-uri 'none';form-action 'self';frame-ancestors 'none'";
  const forPages = helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: Object.fromEntries(
        contentSecurityPolicy.split(';').map((directive) => {
          const [name = '', ...sources] = directive.split(' ');
          return [name, sources];
        }),
      ),
    },
    crossOriginResourcePolicy: { policy: 'same-site' },
    // Set by whoever terminates TLS.
    strictTransportSecurity: false,
  });
  return (req, res, next) => {
    res.setHeader('X-Request-Id', requestIdOf(req));
    if (!req.path.startsWith('/v1/')) {
      forPages(req, res, next);
      return;
    }
    res.setHeader('Content-Security-Policy', contentSecurityPolicy);
    res.setHeader('Cross-Origin-Resource-Policy', 'same-site');
    res.setHeader('Referrer-Policy', 'no-referrer');
    res.setHeader('X-Content-Type-Options', 'nosniff');
    next();
  };
}

/** That of the caller when it is a plain token, else a new one. It is in every answer and every log line. */
function requestIdOf(req: Request): string {
  const given = req.headers['x-request-id'];
  return typeof given === 'string' && /^[\w.:-]{1,128}$/.test(given) ? given : uuidv7();
}

const anonymous: Identity = { tenantId: '', keyId: undefined, scopes: [] };

/** The same order everywhere: authenticate, rate limit, authorize, parse, act. */
function createHandler(deps: ApiDeps, route: Route): RequestHandler {
  const { scope } = route;
  return async (req, res) => {
    let identity = anonymous;
    res.setHeader('Cache-Control', 'no-store');
    if (scope !== 'public') {
      identity = await deps.authenticate(req.headers.authorization);
      deps.rateLimiter.take(identity.tenantId, res);
      if (!hasScope(identity, scope)) {
        throw new AppError(
          'forbidden',
          `This call needs the scope "${scope}"; the key has ${identity.scopes.join(', ')}.`,
        );
      }
    }
    // As Express has it: what a client sent, which a schedule keeps, apart from what the schema makes of it.
    if (route.body !== undefined) req.body = await deps.readJson(req);
    await route.handle({
      deps,
      req,
      res,
      identity,
      params: route.params === undefined ? undefined : route.params.parse(req.params),
      query: route.query === undefined ? undefined : parseQuery(route.query, req.query),
      body: route.body === undefined ? undefined : parseWith(route.body, req.body),
    });
  };
}

/** Query parameters are part of the URL, so what is wrong with them is a 400. */
function parseQuery(schema: z.ZodType, query: unknown): unknown {
  const parsed = schema.safeParse(query);
  if (parsed.success) return parsed.data;
  const errors = toFieldErrors(parsed.error, '');
  const [first] = errors;
  throw new AppError(
    'bad-request',
    `Query parameter ${first?.pointer.slice(1) ?? ''}: ${first?.detail ?? 'is not valid'}`,
    { errors },
  );
}

/** 405 with `Allow` where the path exists with other methods, else 404. */
function createFallback(): RequestHandler {
  const methodsOf = new Map<string, { pattern: RegExp; methods: string[] }>();
  for (const route of routes) {
    const pattern = route.path
      .replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`)
      .replaceAll(/:\w+/g, '[^/]+');
    const entry = methodsOf.get(route.path) ?? { pattern: new RegExp(`^${pattern}/?$`, 'i'), methods: [] };
    entry.methods.push(route.method.toUpperCase());
    methodsOf.set(route.path, entry);
  }
  return (req, res) => {
    const methods = [...methodsOf.values()]
      .filter((entry) => entry.pattern.test(req.path))
      .flatMap((entry) => entry.methods);
    if (methods.length === 0)
      throw new AppError(
        'not-found',
        `There is no ${req.path.slice(0, 200)}. GET /openapi.json lists all calls.`,
      );
    if (methods.includes('GET')) methods.push('HEAD');
    res.setHeader('Allow', methods.join(', '));
    throw new AppError(
      'method-not-allowed',
      `${req.path.slice(0, 200)} knows ${methods.join(', ')}, not ${req.method}.`,
    );
  };
}
