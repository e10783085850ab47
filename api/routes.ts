import type { Route } from './http/define-route.ts';
import { cancelJob } from './routes/jobs/cancel-job.ts';
import { createJob } from './routes/jobs/create-job.ts';
import { getJob } from './routes/jobs/get-job.ts';
import { getResult } from './routes/jobs/get-result.ts';
import { getLivez, getReadyz } from './routes/operation/health.ts';

/** Every call of the API: the router and the OpenAPI document are made from this list. */
export const routes: readonly Route[] = [createJob, getJob, getResult, cancelJob, getLivez, getReadyz];
