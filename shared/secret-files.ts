import { readFileSync } from 'node:fs';

/**
 * Settings with passwords in them. Each may be given as the name of a file instead, as in `DATABASE_URL_FILE`: that is how Docker
 * and Kubernetes hand out secrets, and it keeps them out of the environment, which shows up in many places.
 */
export const secretNames = ['DATABASE_URL', 'REDIS_URL', 'WINDLASS_API_KEY', 'SMTP_URL'] as const;

/**
 * Adds the settings whose files are named, without the line break that editors put at the end. A setting that is given itself wins.
 * @returns the settings, and what was wrong with files.
 */
export function readSecretFiles(given: Readonly<Record<string, string | undefined>>): {
  settings: Record<string, string | undefined>;
  problems: string[];
} {
  const settings = { ...given };
  const problems: string[] = [];
  for (const name of secretNames) {
    const file = given[`${name}_FILE`];
    if (file === undefined || given[name] !== undefined) continue;
    try {
      settings[name] = readFileSync(file, 'utf8').trim();
    } catch (err) {
      problems.push(`${name}_FILE: ${err instanceof Error ? err.message : String(err)}`);
    }
  }
  return { settings, problems };
}
