/**
 * Loaded into a process with `--import`: its wall clock jumps, as after a correction by hand or on a machine that is set
 * wrong. At the start and on SIGUSR2 the offset is read, in ms, from the file that WINDLASS_TEST_CLOCK names. Timers are not touched: they
 * run by the monotonic clock, which does not jump.
 */
import { existsSync, readFileSync } from 'node:fs';

const file = process.env['WINDLASS_TEST_CLOCK'];
const RealDate = Date;
let offsetMs = 0;

class ShiftedDate extends RealDate {
  constructor(...given: unknown[]) {
    // The spread keeps what Date makes of none, one or several arguments.
    super(...((given.length === 0 ? [ShiftedDate.now()] : given) as [number]));
  }
  static override now(): number {
    return RealDate.now() + offsetMs;
  }
}

if (file !== undefined) {
  globalThis.Date = ShiftedDate as DateConstructor;
  const read = () => {
    if (existsSync(file)) offsetMs = Number(readFileSync(file, 'utf8'));
  };
  read();
  process.on('SIGUSR2', read);
}
