import type { Measure } from '../measure.ts';
import { accept } from './accept.ts';
import { backlog } from './backlog.ts';
import { celery } from './celery.ts';
import { drain } from './drain.ts';
import { fairness } from './fairness.ts';
import { latency } from './latency.ts';
import { recovery } from './recovery.ts';
import { resize } from './resize.ts';
import { schedules } from './schedules.ts';
import { upload } from './upload.ts';
import { workflow } from './workflow.ts';

/** In the order of the table. */
export const measures: readonly Measure[] = [
  accept,
  drain,
  latency,
  upload,
  resize,
  backlog,
  fairness,
  schedules,
  workflow,
  recovery,
];

/** Only when asked for: they need programs that the project does not install by itself. */
export const extraMeasures: readonly Measure[] = [celery];
