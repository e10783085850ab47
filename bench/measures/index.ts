import type { Measure } from '../measure.ts';
import { accept } from './accept.ts';
import { backlog } from './backlog.ts';
import { drain } from './drain.ts';
import { latency } from './latency.ts';
import { recovery } from './recovery.ts';
import { resize } from './resize.ts';
import { upload } from './upload.ts';

/** In the order of the table. */
export const measures: readonly Measure[] = [accept, drain, latency, upload, resize, backlog, recovery];
