/**
 * Places where a fault test may kill or freeze this very process (`CRASH_AT=<name>`, read by shared/config.ts and
 * refused outside NODE_ENV=test). A named point dies exactly between two steps, which a timed kill cannot.
 */
export const crashPoints = [
  'upload.middle', // bytes are arriving
  'storage.before-sync', // all bytes are written to the part, not synced
  'storage.before-rename', // the part is complete and synced, the file does not have its name yet
  'accept.before-commit', // bytes are stored, no row yet
  'accept.after-commit', // the row is committed, nothing is in Redis
  'feed.after-marks', // the rows are marked as dispatched, no delivery is in Redis
  'run.before-claim', // the delivery is taken, the row is still queued
  'run.after-claim', // the row is active, nothing has run
  'run.during-task', // the handler is running
  'run.after-effect', // an effect of the task is done, its end is not recorded
  'run.after-output', // output bytes are stored, the result is not committed
  'run.before-commit', // all is ready for the final transaction
  'run.after-commit', // the result is committed, nobody has been told
  'bulk.before-commit', // a page of a bulk action is done and not committed
  'bulk.after-commit', // it is committed, and nobody was told
  'each.before-commit', // jobs of some items of a step are made and not committed
  'each.after-commit', // they are committed, and nobody was told
  'each.before-collect', // all items have ended, nothing of their results was read
] as const;

export type CrashPoint = (typeof crashPoints)[number];

let armed: string | undefined;
let signal: 'SIGKILL' | 'SIGSTOP' = 'SIGKILL';

/** @param setting the name of a point; `<name>:SIGSTOP` freezes the process there, until a test sends SIGCONT. */
export function armCrashPoint(setting: string | undefined): void {
  signal = setting?.endsWith(':SIGSTOP') === true ? 'SIGSTOP' : 'SIGKILL';
  armed = setting?.replace(/:SIGSTOP$/, '');
}

export function crashPoint(name: CrashPoint): void {
  if (armed === name) process.kill(process.pid, signal);
}
