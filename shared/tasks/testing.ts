/**
 * Runs a handler in this process the way a worker would, for tests of tasks: real files in a temporary directory,
 * input and result held against the task's schemas, everything the handler reported recorded.
 *
 * What it does not do: limits, isolation, retries and the hard time limit belong to the worker.
 */
import { createHash, randomUUID } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import type { z } from 'zod';
import type { TaskDefinition } from './define-task.ts';
import type { InlineTaskContext, InputFile, OutputLimits } from './task-context.ts';
import { EffectUnknownError } from './task-errors.ts';

export interface TaskRunOptions<Input extends z.ZodType, Output extends z.ZodType> {
  readonly definition: TaskDefinition<Input, Output>;
  /** Of a task of either isolation: the context has what inline tasks get as well. */
  readonly handler: (
    input: z.output<Input>,
    ctx: InlineTaskContext,
  ) => Promise<z.input<Output>> | z.input<Output>;
  readonly input: z.input<Input>;
  /** What the input's file fields may refer to; made with `testFile`. */
  readonly files?: readonly TestFile[];
  readonly signal?: AbortSignal;
  readonly softSignal?: AbortSignal;
  /** Called at once for every report, for example to abort when the work has begun. */
  readonly onProgress?: (percent: number, message: string | undefined) => void;
  /** From 1; default 1. */
  readonly attempt?: number;
  /** Settings of an inline task, for example `{ SMTP_URL: … }`. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /** Default: those of a service without settings. */
  readonly limits?: Partial<OutputLimits>;
  /** Pass the same map to a second run to see what a retry does. */
  readonly effects?: Map<string, RecordedEffect>;
  /** Pass the same map to a second run to see what the task remembers. */
  readonly memory?: Map<string, unknown>;
}

/** An effect that was begun and, if `isFinished`, ended with `value`. */
export interface RecordedEffect {
  readonly isFinished: boolean;
  readonly value?: unknown;
}

export interface TaskRun<Result> {
  /** The handler's answer after a trip through JSON and the task's output schema. */
  readonly result: Result;
  /** The files that were written, in the order in which they were started. */
  readonly outputs: readonly RecordedOutput[];
  readonly progress: readonly { readonly percent: number; readonly message: string | undefined }[];
  readonly logs: readonly string[];
  /** The output with this id. @throws Error when the handler wrote none. */
  output(id: string): RecordedOutput;
}

export interface RecordedOutput {
  readonly id: string;
  readonly name: string;
  readonly mediaType: string;
  readonly bytes: Buffer;
}

/** A stored file as a test has it. */
export interface TestFile {
  readonly id: string;
  readonly name: string;
  readonly mediaType: string;
  readonly source: { readonly bytes: Uint8Array } | { readonly path: string };
}

/**
 * A file for `files` and, by its `id`, for `input`.
 * @param source the bytes, or the path of a file to copy.
 * @param options `name` defaults to the base name of the path, or `file`; `mediaType` to application/octet-stream.
 */
export function testFile(
  source: Uint8Array | string,
  options: { name?: string; mediaType?: string } = {},
): TestFile {
  const isPath = typeof source === 'string';
  return {
    id: randomUUID(),
    name: options.name ?? (isPath ? basename(source) : 'file'),
    mediaType: options.mediaType ?? 'application/octet-stream',
    source: isPath ? { path: source } : { bytes: source },
  };
}

/**
 * Runs `handler` once.
 * @throws z.ZodError when the input or the result does not fit the definition, whatever the handler throws, and Error
 *   when the handler changed one of its input files or reported progress outside 0 to 100.
 */
export async function runTask<Input extends z.ZodType, Output extends z.ZodType>(
  options: TaskRunOptions<Input, Output>,
): Promise<TaskRun<z.output<Output>>> {
  const { definition, handler } = options;
  const input = definition.input.parse(options.input);
  const dir = await mkdtemp(join(tmpdir(), 'windlass-task-'));
  try {
    const files = await placeFiles(dir, options.files ?? []);
    const { ctx, recorded } = await createContext(dir, files, options);
    const answer = await handler(input, ctx);
    await refuseChangedFiles(files);
    const result = definition.output.parse(JSON.parse(JSON.stringify(answer)));
    const outputs = await readOutputs(recorded.outputs);
    return {
      result,
      outputs,
      progress: recorded.progress,
      logs: recorded.logs,
      output(id) {
        const output = outputs.find((item) => item.id === id);
        if (output === undefined) throw new Error(`The handler wrote no output file ${id}.`);
        return output;
      },
    };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function placeFiles(dir: string, files: readonly TestFile[]): Promise<Map<string, InputFile>> {
  const placed = new Map<string, InputFile>();
  await mkdir(join(dir, 'input'));
  for (const file of files) {
    // As in a worker, the path says nothing about the name or the type.
    const path = join(dir, 'input', file.id);
    if ('path' in file.source) await copyFile(file.source.path, path);
    else await writeFile(path, file.source.bytes);
    const bytes = await readFile(path);
    placed.set(file.id, {
      id: file.id,
      path,
      name: file.name,
      mediaType: file.mediaType,
      sizeBytes: bytes.length,
      sha256: sha256(bytes),
    });
  }
  return placed;
}

/** The defaults of shared/config.ts, which is read by processes of the service only. */
const defaultLimits: OutputLimits = {
  outputFilesMax: 1_000,
  outputFileBytesMax: 5 * 1024 ** 3,
  resultBytesMax: 256 * 1024,
};

type StartedOutput = Omit<RecordedOutput, 'bytes'> & { readonly path: string };

interface Recorded {
  readonly outputs: StartedOutput[];
  readonly progress: { readonly percent: number; readonly message: string | undefined }[];
  readonly logs: string[];
}

async function createContext(
  dir: string,
  files: ReadonlyMap<string, InputFile>,
  options: Pick<
    TaskRunOptions<z.ZodType, z.ZodType>,
    'signal' | 'softSignal' | 'onProgress' | 'attempt' | 'settings' | 'limits' | 'effects' | 'memory'
  >,
): Promise<{ ctx: InlineTaskContext; recorded: Recorded }> {
  const scratchDir = join(dir, 'scratch');
  const outputDir = join(dir, 'output');
  await mkdir(scratchDir);
  await mkdir(outputDir);
  const recorded: Recorded = { outputs: [], progress: [], logs: [] };
  const memory = options.memory ?? new Map<string, unknown>();
  const ctx: InlineTaskContext = {
    jobId: randomUUID(),
    attempt: options.attempt ?? 1,
    tenantId: 'default',
    signal: options.signal ?? new AbortController().signal,
    softSignal: options.softSignal ?? new AbortController().signal,
    scratchDir,
    settings: options.settings ?? {},
    limits: { ...defaultLimits, ...options.limits },
    progress(percent, message) {
      if (!(percent >= 0 && percent <= 100)) throw new Error(`Progress ${percent} is not within 0 to 100.`);
      recorded.progress.push({ percent, message });
      options.onProgress?.(percent, message);
    },
    log(message) {
      recorded.logs.push(message);
    },
    file(id) {
      const file = files.get(id);
      if (file === undefined) throw new TypeError(`${id} is not a file of this job's input.`);
      return file;
    },
    output(name, { mediaType }) {
      const id = randomUUID();
      const output = { id, name, mediaType, path: join(outputDir, id) };
      recorded.outputs.push(output);
      return { id, path: output.path };
    },
    effect: recordEffects(options.effects ?? new Map()),
    memory: {
      get: async (key) => memory.get(key),
      set: async (key, value) => {
        memory.set(key, value);
      },
    },
  };
  return { ctx, recorded };
}

/** The rules of `InlineTaskContext.effect`, over a map instead of the database. */
function recordEffects(effects: Map<string, RecordedEffect>): InlineTaskContext['effect'] {
  return async <Value>(
    key: string,
    { onUnknown, isNotDone }: { onUnknown: 'repeat' | 'fail'; isNotDone: (err: unknown) => boolean },
    action: () => Promise<Value>,
  ): Promise<Value> => {
    const earlier = effects.get(key);
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- It is what an action of the same key returned.
    if (earlier?.isFinished === true) return earlier.value as Value;
    if (earlier !== undefined && onUnknown === 'fail') {
      throw new EffectUnknownError(`It is unknown whether "${key}" took place in an earlier run.`);
    }
    effects.set(key, { isFinished: false });
    try {
      const value = await action();
      effects.set(key, { isFinished: true, value });
      return value;
    } catch (err) {
      if (isNotDone(err)) effects.delete(key);
      throw err;
    }
  };
}

async function refuseChangedFiles(files: ReadonlyMap<string, InputFile>): Promise<void> {
  for (const file of files.values()) {
    if (sha256(await readFile(file.path)) !== file.sha256) {
      throw new Error(`The handler changed its input file "${file.name}"; inputs are read-only.`);
    }
  }
}

async function readOutputs(started: readonly StartedOutput[]): Promise<RecordedOutput[]> {
  const outputs: RecordedOutput[] = [];
  for (const { path, ...output } of started) {
    const bytes = await readFile(path).catch((err: NodeJS.ErrnoException) => {
      if (err.code === 'ENOENT') return undefined;
      throw err;
    });
    if (bytes !== undefined) outputs.push({ ...output, bytes });
  }
  return outputs;
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
