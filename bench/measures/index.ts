import type { Measure } from '../measure.ts';
import { accept } from './accept.ts';
import { drain } from './drain.ts';

/** In the order of the table. */
export const measures: readonly Measure[] = [accept, drain];
