import type { Route } from './http/define-route.ts';
import { getBatch } from './routes/batches/get-batch.ts';
import { createBulk } from './routes/bulk/create-bulk.ts';
import { createEmail } from './routes/emails/create-email.ts';
import { listTemplates } from './routes/emails/list-templates.ts';
import { createFile } from './routes/files/create-file.ts';
import { deleteFile } from './routes/files/delete-file.ts';
import { getContent } from './routes/files/get-content.ts';
import { getFile } from './routes/files/get-file.ts';
import { cancelJob } from './routes/jobs/cancel-job.ts';
import { createBatch } from './routes/jobs/create-batch.ts';
import { createJob } from './routes/jobs/create-job.ts';
import { deleteJob } from './routes/jobs/delete-job.ts';
import { getJob } from './routes/jobs/get-job.ts';
import { getResult } from './routes/jobs/get-result.ts';
import { listJobs } from './routes/jobs/list-jobs.ts';
import { listLogs } from './routes/jobs/list-logs.ts';
import { replayJob } from './routes/jobs/replay-job.ts';
import { retryJob } from './routes/jobs/retry-job.ts';
import { createKey } from './routes/keys/create-key.ts';
import { listKeys } from './routes/keys/list-keys.ts';
import { revokeKey } from './routes/keys/revoke-key.ts';
import { createDocumentationRoutes } from './routes/operation/documentation.ts';
import { getLivez, getReadyz } from './routes/operation/health.ts';
import { drainQueue } from './routes/queues/drain-queue.ts';
import { getAutoscale } from './routes/queues/get-autoscale.ts';
import { listQueues } from './routes/queues/list-queues.ts';
import { pauseQueue } from './routes/queues/pause-queue.ts';
import { resumeQueue } from './routes/queues/resume-queue.ts';
import { deleteSchedule } from './routes/schedules/delete-schedule.ts';
import { getSchedule } from './routes/schedules/get-schedule.ts';
import { listSchedules } from './routes/schedules/list-schedules.ts';
import { putSchedule } from './routes/schedules/put-schedule.ts';
import { triggerSchedule } from './routes/schedules/trigger-schedule.ts';
import { getTask } from './routes/tasks/get-task.ts';
import { listTasks } from './routes/tasks/list-tasks.ts';
import { listWorkers } from './routes/workers/list-workers.ts';
import { quietWorker } from './routes/workers/quiet-worker.ts';
import { unquietWorker } from './routes/workers/unquiet-worker.ts';
import { cancelWorkflow } from './routes/workflows/cancel-workflow.ts';
import { createWorkflow } from './routes/workflows/create-workflow.ts';
import { getWorkflow } from './routes/workflows/get-workflow.ts';
import { listWorkflows } from './routes/workflows/list-workflows.ts';
import { retryWorkflow } from './routes/workflows/retry-workflow.ts';

const calls: readonly Route[] = [
  createJob,
  createBatch,
  getBatch,
  createBulk,
  listJobs,
  getJob,
  getResult,
  listLogs,
  cancelJob,
  retryJob,
  replayJob,
  deleteJob,
  createWorkflow,
  listWorkflows,
  getWorkflow,
  cancelWorkflow,
  retryWorkflow,
  listSchedules,
  getSchedule,
  putSchedule,
  deleteSchedule,
  triggerSchedule,
  createFile,
  getFile,
  getContent,
  deleteFile,
  createEmail,
  listTemplates,
  listTasks,
  getTask,
  listQueues,
  pauseQueue,
  resumeQueue,
  drainQueue,
  getAutoscale,
  listWorkers,
  quietWorker,
  unquietWorker,
  createKey,
  listKeys,
  revokeKey,
  getLivez,
  getReadyz,
];

/** Every call of the API: the router and the OpenAPI document are made from this list. */
export const routes: readonly Route[] = [...calls, ...createDocumentationRoutes(calls)];
