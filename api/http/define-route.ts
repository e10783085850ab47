/**
 * A route is data: method, path, scope, schemas of what goes in and comes out, and a handler of a few lines. The
 * router and the OpenAPI document are both made from it, so they cannot disagree.
 */
import type { Request, Response } from 'express';
import type { z } from 'zod';
import type { Scope } from '#shared/db/api-keys.ts';
import type { ErrorCode } from '#shared/errors.ts';
import type { ApiDeps } from '../deps.ts';

/** Who is asking. */
export interface Identity {
  readonly tenantId: string;
  readonly keyId: string | undefined;
  readonly scopes: readonly Scope[];
}

export interface RouteContext<Params, Query, Body> {
  readonly deps: ApiDeps;
  readonly req: Request;
  readonly res: Response;
  readonly identity: Identity;
  readonly params: Params;
  readonly query: Query;
  readonly body: Body;
}

export interface ResponseDoc {
  readonly description: string;
  readonly schema?: z.ZodType;
  readonly headers?: Readonly<Record<string, string>>;
  /** When the body is not JSON. */
  readonly contentType?: string;
}

export interface Route<
  Params extends z.ZodType = z.ZodType,
  Query extends z.ZodType = z.ZodType,
  Body extends z.ZodType = z.ZodType,
> {
  readonly method: 'get' | 'post' | 'put' | 'delete';
  /** Express syntax: `/v1/jobs/:id`. */
  readonly path: string;
  /** `public` routes need no key. `admin` keys may do everything. */
  readonly scope: Scope | 'public';
  readonly tag:
    | 'Jobs'
    | 'Workflows'
    | 'Schedules'
    | 'Files'
    | 'E-mail'
    | 'Tasks'
    | 'Queues and workers'
    | 'Administration'
    | 'Operation';
  readonly summary: string;
  readonly description?: string;
  readonly params?: Params;
  readonly query?: Query;
  /** A JSON body, read and checked before the handler. */
  readonly body?: Body;
  /** Bodies that the handler reads itself, for the documentation: media type → what is in it. */
  readonly streams?: Readonly<Record<string, { description: string; schema?: z.ZodType }>>;
  /** Request headers, for the documentation. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly responses: Readonly<Record<number, ResponseDoc>>;
  /** Problems beyond those that any route may answer. */
  readonly problems?: readonly ErrorCode[];
  readonly handle: (ctx: RouteContext<z.output<Params>, z.output<Query>, z.output<Body>>) => Promise<void>;
}

/** Infers the types of the handler's arguments from the schemas. */
export function defineRoute<
  Params extends z.ZodType = z.ZodUndefined,
  Query extends z.ZodType = z.ZodUndefined,
  Body extends z.ZodType = z.ZodUndefined,
>(route: Route<Params, Query, Body>): Route {
  // The handler is only ever called with values that its own schemas gave, which the list of all routes cannot say.
  return route;
}
