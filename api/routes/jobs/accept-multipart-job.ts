import { AppError } from '#shared/errors.ts';
import type { Accepted } from '../../accept-job.ts';
import type { RouteContext } from '../../http/define-route.ts';

export function acceptMultipartJob(_ctx: RouteContext<undefined, undefined, undefined>, _key: string | undefined): Promise<Accepted> {
  return Promise.reject(new AppError('unsupported-media-type', 'Send application/json.'));
}
