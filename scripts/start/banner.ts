import type { Config } from '#shared/config.ts';
import { isAbsolute, relative } from 'node:path';

export interface BannerFacts {
  readonly url: string;
  /** Undefined when e-mails go to a real server. */
  readonly mailUrl: string | undefined;
  readonly dataDir: string;
  readonly workers: number;
  /** The first admin key, when it was made by this start. */
  readonly newKey: string | undefined;
  readonly config: Pick<Config, 'WINDLASS_AUTH' | 'WINDLASS_API_KEY'>;
  /** Absolute. */
  readonly samplePhoto: string;
  /** Where the user is, for a path that works when pasted. */
  readonly cwd: string;
}

/** What `npm start` says when all runs: where everything is, and one command to try. */
export function banner(facts: BannerFacts): string {
  const { url, mailUrl } = facts;
  const key = keyNotice(facts);
  const lines = [
    ['api', url],
    ['e-mails', mailUrl ?? 'sent through SMTP_URL'],
    ['data', facts.dataDir],
    ['workers', String(facts.workers)],
    ['admin key', key.text],
  ].map(([name = '', value]) => `  ${name.padEnd(10)} ${value}`);
  return `\nWindlass is ready.\n\n${lines.join('\n')}\n\nTry it:\n\n${curl(facts, key.shell)}\n\n`;
}

/** What is said about the key, and how a shell gets at it. */
function keyNotice({ newKey, config, url }: BannerFacts): { text: string; shell: string | undefined } {
  if (newKey !== undefined) return { text: `${newKey}   (keep it: it is not shown again)`, shell: newKey };
  if (config.WINDLASS_AUTH === 'off') return { text: 'not needed: WINDLASS_AUTH=off', shell: undefined };
  if (config.WINDLASS_API_KEY !== undefined) {
    return { text: 'that of WINDLASS_API_KEY at the first start', shell: '$WINDLASS_API_KEY' };
  }
  const indent = ' '.repeat(13);
  return {
    text:
      `shown at the first start. Another one: POST ${url}/v1/keys {"name":"…","scopes":["admin"]} with it;\n` +
      `${indent}if it is lost: the same without it, after starting once with WINDLASS_AUTH=off`,
    shell: '$KEY',
  };
}

/** Quoted as a POSIX shell reads it; keys of ours are letters, digits and underscores. */
function curl({ url, samplePhoto, cwd }: BannerFacts, key: string | undefined): string {
  const photo = relative(cwd, samplePhoto);
  const path = photo.startsWith('..') || isAbsolute(photo) ? samplePhoto : photo;
  const quoted = /^[\w./-]+$/.test(path) ? `file=@${path}` : `'file=@${path.replaceAll("'", `'\\''`)}'`;
  return [
    `  curl -sS ${url}/v1/jobs`,
    ...(key === undefined ? [] : [`-H "Authorization: Bearer ${key}"`]),
    `-F task=image.resize -F 'input={"width":320,"format":"webp"}'`,
    `-F ${quoted}`,
  ].join(' \\\n    ');
}
