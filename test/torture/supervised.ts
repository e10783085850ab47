/** A process of the service that is started again whenever it ends, as systemd or Docker would. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServiceProcess, StartedService } from '#test/support/service.ts';
import type { History } from './history.ts';

export interface Supervised {
  readonly name: string;
  /** The one that runs now, ready or not. */
  current(): ServiceProcess;
  isReady(): boolean;
  /** Every process so far, for their logs. */
  readonly processes: readonly ServiceProcess[];
  /** Its end, from here on, is what the nemesis or the run wanted. */
  kill(signal: NodeJS.Signals): Promise<void>;
  /** SIGTERM, and no new one. @returns its exit code. */
  stop(): Promise<number | null>;
}

const restartMs = 300;
/** Above the time that a worker takes itself for an orderly end. */
const stopMs = 40_000;

export function supervise(options: {
  name: string;
  start: () => StartedService;
  /** It is ready; the api says on which port. */
  onReady: (message: { readonly port?: number }) => void;
  history: History;
}): Supervised {
  const { name, start, onReady, history } = options;
  const processes: ServiceProcess[] = [];
  const wantedEnds = new Set<ServiceProcess>();
  let isStopping = false;
  let isReady = false;
  let current = launch();
  const keeping = keep();

  function launch(): ServiceProcess {
    const started = start();
    const { process } = started;
    processes.push(process);
    void started.ready().then(
      (message) => {
        isReady = true;
        onReady(message);
        history.add({ type: 'process-ready', name, pid: process.pid });
      },
      () => {
        // It ended before it was ready; `keep` sees that as well.
      },
    );
    return process;
  }

  async function keep(): Promise<void> {
    for (;;) {
      const code = await current.exited;
      isReady = false;
      history.add({ type: 'process-ended', name, pid: current.pid, code, wanted: wantedEnds.has(current) });
      if (isStopping) return;
      await sleep(restartMs);
      // `stop` may have been called meanwhile.
      if (isStopping) return;
      current = launch();
    }
  }

  return {
    name,
    processes,
    current: () => current,
    isReady: () => isReady,
    async kill(signal) {
      const process = current;
      wantedEnds.add(process);
      await process.kill(signal);
    },
    async stop() {
      isStopping = true;
      const process = current;
      wantedEnds.add(process);
      const tooLate = setTimeout(() => process.isRunning() && process.signal('SIGKILL'), stopMs);
      await process.kill('SIGTERM');
      clearTimeout(tooLate);
      await keeping;
      return process.exited;
    },
  };
}
