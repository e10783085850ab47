import type { Route } from '#api/http/define-route.ts';

/**
 * The name of a call for client generators, from its method and path: `POST /v1/jobs` → `createJob`,
 * `GET /v1/jobs/:id/logs` → `listJobLogs`, `POST /v1/jobs/:id/cancel` → `cancelJob`.
 */
export function operationId(route: Pick<Route, 'method' | 'path'>): string {
  const segments = route.path.split('/').filter((segment) => segment !== '' && segment !== 'v1');
  const nouns = segments.filter((segment) => !segment.startsWith(':'));
  const last = nouns.at(-1) ?? 'home';
  const owners = nouns.slice(0, -1).map(toSingular);
  const isOne = segments.at(-1)?.startsWith(':') === true;

  if (isOne) return toCamelCase([verbs[route.method], ...owners, toSingular(last)]);
  if (route.method === 'get') {
    const isList = route.path.startsWith('/v1/') && toSingular(last) !== last;
    return toCamelCase([isList ? 'list' : 'get', ...owners, last]);
  }
  if (route.method === 'post' && segments.length > nouns.length) return toCamelCase([last, ...owners]);
  return toCamelCase([verbs[route.method], ...owners, toSingular(last)]);
}

const verbs = { get: 'get', post: 'create', put: 'put', delete: 'delete' } as const;

/** Good enough for our own nouns. */
function toSingular(noun: string): string {
  return noun.replace(/(?<=ch)es$|s$/, '');
}

function toCamelCase(words: readonly string[]): string {
  return words
    .flatMap((word) => word.split(/[^A-Za-z0-9]+/))
    .filter((word) => word !== '')
    .map((word, index) => (index === 0 ? word.toLowerCase() : word.charAt(0).toUpperCase() + word.slice(1)))
    .join('');
}
