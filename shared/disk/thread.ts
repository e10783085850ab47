/** The thread's side of disk-threads.ts. */
import { armCrashPoint } from '../crash-point.ts';

export interface ThreadCall {
  /** Of the module that exports the function. */
  readonly url: string;
  readonly name: string;
  readonly task: unknown;
  /** The setting of shared/crash-point.ts. */
  readonly crashAt: string | undefined;
}

/** An error loses all but its message on the way between threads. */
export type ThreadAnswer =
  | { readonly isDone: true; readonly value: unknown }
  | { readonly isDone: false; readonly message: string; readonly code: string | undefined };

type Functions = Record<string, ((task: unknown) => unknown) | undefined>;

/** Even of what is loaded, an import takes longer than most of the calls. */
const loaded = new Map<string, Functions>();

export default async function run({ url, name, task, crashAt }: ThreadCall): Promise<ThreadAnswer> {
  armCrashPoint(crashAt);
  let functions = loaded.get(url);
  if (functions === undefined) {
    functions = (await import(url)) as Functions;
    loaded.set(url, functions);
  }
  try {
    return { isDone: true, value: functions[name]?.(task) };
  } catch (err) {
    const code = err instanceof Error && 'code' in err ? String(err.code) : undefined;
    return { isDone: false, message: err instanceof Error ? err.message : String(err), code };
  }
}
