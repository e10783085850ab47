import { cleanText } from '#shared/domain/text.ts';

/** Node's own stack says nothing to the author of a task, and is long enough to hide what does. */
const nativeFrame = /^\s*\d+: 0x[0-9a-f]+ |^-{5} Native stack trace -{5}$/;

/** @param stderr what it wrote there at last. */
export function describeDeath(
  end: { code: number | null; signal: NodeJS.Signals | null },
  stderr: string,
): string {
  const how =
    end.signal === null ? `exited with code ${end.code ?? 'unknown'}` : `was killed by ${end.signal}`;
  const lines = stderr
    .trim()
    .split('\n')
    .filter((line) => line.trim() !== '' && !nativeFrame.test(line))
    .slice(-5)
    .join('\n');
  return cleanText(
    `The process that ran the task ${how}.${lines === '' ? '' : ` Its last words:\n${lines}`}`,
    2_000,
  );
}
