import { openAsBlob } from 'node:fs';
import { basename } from 'node:path';

export interface DemoJob {
  readonly id: string;
  readonly state: string;
  readonly progress: { readonly percent: number; readonly message: string | null };
  readonly result: unknown;
  readonly error: { readonly message: string } | null;
}

/** What a web developer would write: fetch, a form, and waiting with `?wait=`. */
export interface DemoClient {
  submitFile(job: { task: string; input: unknown; path: string }): Promise<string>;
  submit(path: string, body: unknown): Promise<string>;
  job(id: string): Promise<DemoJob>;
  /** Waits for the end, at most two minutes. */
  finished(id: string): Promise<DemoJob>;
  /** The one file that the job made. */
  download(id: string): Promise<Buffer>;
}

export function createDemoClient(url: string, key: string): DemoClient {
  const headers = { authorization: `Bearer ${key}` };

  async function request(path: string, init: RequestInit = {}): Promise<Response> {
    const response = await fetch(url + path, {
      ...init,
      headers: { ...headers, ...(init.headers as Record<string, string> | undefined) },
    });
    if (!response.ok)
      throw new Error(
        `${init.method ?? 'GET'} ${path} answered ${response.status}: ${await response.text()}`,
      );
    return response;
  }

  async function idOf(response: Response): Promise<string> {
    return ((await response.json()) as { id: string }).id;
  }

  const job = async (id: string, query = ''): Promise<DemoJob> =>
    (await request(`/v1/jobs/${id}${query}`)).json() as Promise<DemoJob>;

  return {
    async submitFile({ task, input, path }) {
      const form = new FormData();
      form.set('task', task);
      form.set('input', JSON.stringify(input));
      form.set(
        'file',
        await openAsBlob(path, { type: path.endsWith('.csv') ? 'text/csv' : 'image/jpeg' }),
        basename(path),
      );
      return idOf(await request('/v1/jobs', { method: 'POST', body: form }));
    },
    async submit(path, body) {
      return idOf(
        await request(path, {
          method: 'POST',
          body: JSON.stringify(body),
          headers: { 'content-type': 'application/json' },
        }),
      );
    },
    job: (id) => job(id),
    async finished(id) {
      for (let round = 0; round < 12; round += 1) {
        const current = await job(id, '?wait=10');
        if (['succeeded', 'failed', 'cancelled'].includes(current.state)) return current;
      }
      throw new Error(`Job ${id} did not end within two minutes.`);
    },
    async download(id) {
      return Buffer.from(await (await request(`/v1/jobs/${id}/result`)).arrayBuffer());
    },
  };
}
