import { isUtf8 } from 'node:buffer';
import type { Request } from 'express';
import { z } from 'zod';
import type { Config } from '#shared/config.ts';
import { findJsonProblem } from '#shared/domain/json-limits.ts';
import { toPointer } from '#shared/domain/json-pointer.ts';
import { AppError, type FieldError } from '#shared/errors.ts';
import { readBody } from './read-body.ts';

/** @param limits of a call whose documents may be larger than those of others. */
export type ReadJson = (req: Request, limits?: JsonSizeLimits) => Promise<unknown>;

export interface JsonSizeLimits {
  readonly bytesMax: number;
  readonly keysMax: number;
  /** What the answers call them. */
  readonly bytesName: string;
  readonly keysName: string;
}

/** Reads a JSON body within the limits of the configuration. */
export function createReadJson(config: Config): ReadJson {
  return createReader(config, 'WINDLASS_JSON_BYTES_MAX', (body, sizes) => checkJson(body, config, sizes));
}

/** Reads the JSON of many things in one: the limits of each are left to whoever takes it apart. */
export function createReadBatch(config: Config): ReadJson {
  return createReader(config, 'WINDLASS_BATCH_BYTES_MAX', () => {});
}

function createReader(
  config: Config,
  limitName: 'WINDLASS_JSON_BYTES_MAX' | 'WINDLASS_BATCH_BYTES_MAX',
  check: (body: unknown, sizes: JsonSizeLimits | undefined) => void,
): ReadJson {
  const pace = { idleMs: config.WINDLASS_UPLOAD_IDLE_MS, rateMin: config.WINDLASS_UPLOAD_RATE_MIN };
  return async (req, sizes) => {
    if (!isJson(req) || hasOtherCharset(req)) {
      throw new AppError(
        'unsupported-media-type',
        `This call takes application/json in UTF-8, not "${req.headers['content-type'] ?? 'nothing'}".`,
      );
    }
    const bytesMax = Math.max(config[limitName], sizes?.bytesMax ?? 0);
    const bytesName = sizes !== undefined && bytesMax === sizes.bytesMax ? sizes.bytesName : limitName;
    const body = parseJson(await readBody(req, { ...pace, bytesMax, bytesName }));
    check(body, sizes);
    return body;
  };
}

/** RFC 8259, 8.1: JSON on its way is UTF-8. A byte order mark is ignored. */
function parseJson(bytes: Buffer): unknown {
  if (bytes.length === 0) throw new AppError('invalid-json', 'The body is empty; a JSON document is needed.');
  if (!isUtf8(bytes)) throw new AppError('invalid-json', 'The body is not valid UTF-8.');
  try {
    return JSON.parse(bytes.toString('utf8').replace(/^\uFEFF/, ''));
  } catch (err) {
    const reason = err instanceof Error ? err.message : String(err);
    throw new AppError('invalid-json', `The body is not valid JSON: ${reason}.`);
  }
}

export function isJson(req: Request): boolean {
  return /^application\/(?:[\w.+-]+\+)?json\s*(?:;|$)/i.test(req.headers['content-type'] ?? '');
}

function hasOtherCharset(req: Request): boolean {
  const charset = /;\s*charset="?([^";\s]*)/i.exec(req.headers['content-type'] ?? '')?.[1];
  return charset !== undefined && !/^utf-?8$/i.test(charset);
}

/** @throws AppError for documents that are too deep, have too many keys, or text that cannot be stored. */
export function checkJson(value: unknown, config: Config, sizes?: JsonSizeLimits): void {
  const isLarger = sizes !== undefined && sizes.keysMax > config.WINDLASS_JSON_KEYS_MAX;
  const keysMax = isLarger ? sizes.keysMax : config.WINDLASS_JSON_KEYS_MAX;
  const problem = findJsonProblem(value, { depthMax: config.WINDLASS_JSON_DEPTH_MAX, keysMax });
  switch (problem?.type) {
    case undefined:
      return;
    case 'too-deep':
      throw new AppError(
        'content-too-large',
        `The JSON is nested deeper than ${config.WINDLASS_JSON_DEPTH_MAX} levels (WINDLASS_JSON_DEPTH_MAX) at ${problem.pointer}.`,
      );
    case 'too-many-keys':
      throw new AppError(
        'content-too-large',
        `The JSON has more than ${keysMax} keys and items (${isLarger ? sizes.keysName : 'WINDLASS_JSON_KEYS_MAX'}).`,
      );
    case 'unstorable':
      throw invalidInput([
        { pointer: problem.pointer, detail: 'Text must not contain U+0000 or half a surrogate pair.' },
      ]);
  }
}

/**
 * Parses with a schema. @throws AppError `invalid-input` with one entry per problem.
 * @param prefix JSON Pointer of the value within the request, for example `/input`.
 */
export function parseWith<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
  prefix = '',
): z.output<Schema> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw invalidInput(toFieldErrors(parsed.error, prefix));
}

export function invalidInput(errors: readonly FieldError[]): AppError {
  const [first, ...others] = errors;
  const more = others.length === 0 ? '' : ` (and ${others.length} more in \`errors\`)`;
  return new AppError(
    'invalid-input',
    `${first?.pointer === '' ? 'The body' : first?.pointer}: ${first?.detail}${more}`,
    { errors },
  );
}

const errorsMax = 50;

export function toFieldErrors(error: Pick<z.ZodError, 'issues'>, prefix: string): FieldError[] {
  return error.issues.slice(0, errorsMax).flatMap((issue): FieldError[] => {
    const pointer = prefix + toPointer(issue.path);
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => ({
        pointer: pointer + toPointer([key]),
        detail: 'This key is not known here.',
      }));
    }
    return [{ pointer, detail: issue.message }];
  });
}
