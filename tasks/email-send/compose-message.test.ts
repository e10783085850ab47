import { text } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';
import type { z } from 'zod';
import { parseAddress } from './address.ts';
import { composeMessage, recipientsOf, writeLetter, type Letter } from './compose-message.ts';
import { task } from './task.ts';

async function write(input: Partial<z.input<(typeof task)['input']>>): Promise<Letter> {
  const parsed = task.input.parse({ to: ['ada@example.com'], subject: 'Hi', text: 'Hello', ...input });
  const ctx = {
    jobId: '0199d7a3-1f5c-7cc0-8000-000000000000',
    file(): never {
      throw new TypeError('This input has no file.');
    },
  };
  return await writeLetter(parsed, ctx, {
    from: parseAddress('shop@example.org'),
    fromDomains: ['example.org'],
  });
}

describe('writeLetter', () => {
  it('makes one line of the subject', async () => {
    const { subject } = await write({ subject: ' Hi\r\nBcc: evil@example.com\u2028\0x ' });
    expect(subject).toBe('Hi Bcc: evil@example.com x');
  });

  it('names everyone once in the envelope, whatever the case of the domain', async () => {
    const letter = await write({
      to: ['a@example.com', 'A <a@EXAMPLE.com>'],
      cc: ['b@example.com'],
      bcc: ['a@example.com'],
    });
    expect(recipientsOf(letter)).toEqual(['a@example.com', 'b@example.com']);
  });

  it('makes a text of the HTML', async () => {
    const html =
      '<h1>Hi</h1><img src="x"><p style="display:none">hidden</p><p>See <a href="https://x.example/?a=1&amp;b=2">it</a></p>';
    expect((await write({ html, text: undefined })).text).toBe('Hi\n\nSee it [https://x.example/?a=1&b=2]');
  });

  it('writes an unsubscribe address so that it cannot end its header', async () => {
    const { headers } = await write({ unsubscribe: { url: 'https://x.example/u?a=<b>&c=d e' } });
    expect(headers[0]).toEqual({ key: 'List-Unsubscribe', value: '<https://x.example/u?a=%3Cb%3E&c=d%20e>' });
  });
});

describe('composeMessage', () => {
  it('leaves those out who do not get it, and never names blind copies', async () => {
    const letter = await write({ to: ['a@example.com', 'b@example.com'], bcc: ['c@example.com'] });
    const raw = await text(composeMessage(letter, new Set(['b@example.com'])));
    expect(raw).toContain('To: a@example.com\r\n');
    expect(raw).not.toMatch(/b@example\.com|c@example\.com/);
  });

  it.each([{ path: '/etc/passwd' }, { href: 'http://127.0.0.1:1/' }])(
    'would not fetch %j even if it got that far (ASVS 1.3.11)',
    async (source) => {
      const letter = { ...(await write({})), text: source as unknown as string };
      await expect(text(composeMessage(letter, new Set()))).rejects.toThrow(/access rejected/i);
    },
  );
});
