import { readdir } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { InvalidInputError } from '#shared/tasks/define-task.ts';
import { renderTemplate } from './render-template.ts';
import { emailTemplates, listEmailTemplates } from './template-list.ts';

describe('the e-mail templates', () => {
  it('are those that have a folder, in the languages that have a file', async () => {
    const root = new URL('./templates/', import.meta.url);
    const folders = (await readdir(root)).toSorted();
    expect(emailTemplates.map(({ name }) => name)).toEqual(folders);
    for (const { name, locales } of emailTemplates) {
      const files = await readdir(new URL(`${name}/`, root));
      const written = files.filter((file) => file.endsWith('.mjml')).map((file) => file.split('.').at(-2));
      const expected = locales.map((locale, index) => (index === 0 ? 'template' : locale));
      expect(new Set(written)).toEqual(new Set(expected));
    }
  });

  it('are listed with what they need', () => {
    expect(listEmailTemplates().find(({ name }) => name === 'welcome')).toMatchInlineSnapshot(`
      {
        "description": "Greets someone whose account is ready.",
        "locales": [
          "en",
          "de",
        ],
        "name": "welcome",
        "sample": {
          "actionUrl": "https://example.com/start?from=mail&step=1",
          "name": "Ada",
          "product": "Example",
        },
        "variables": {
          "$schema": "https://json-schema.org/draft/2020-12/schema",
          "additionalProperties": false,
          "properties": {
            "actionUrl": {
              "description": "Where the button leads.",
              "format": "uri",
              "type": "string",
            },
            "name": {
              "description": "How the reader is addressed.",
              "maxLength": 200,
              "minLength": 1,
              "type": "string",
            },
            "product": {
              "description": "What the reader has signed up to.",
              "maxLength": 200,
              "minLength": 1,
              "type": "string",
            },
          },
          "required": [
            "name",
            "product",
            "actionUrl",
          ],
          "type": "object",
        },
      }
    `);
  });

  it.each(
    emailTemplates.flatMap(({ name, locales, sample }) =>
      locales.map((locale) => ({ name, locale, sample })),
    ),
  )('$name in $locale says what it should', async ({ name, locale, sample }) => {
    const { subject, html, text } = await renderTemplate({ name, locale, variables: sample });
    expect(`${subject}\n\n${text}`).toMatchSnapshot();
    expect(html).toContain(`lang="${locale}"`);
    // No tracking of readers by whoever serves a font.
    expect(html).not.toMatch(/fonts\.googleapis|\{\{|\{%/);
  });

  it('fall back to a wider language, then to the default one', async () => {
    const subjectIn = async (locale?: string) =>
      (
        await renderTemplate({
          name: 'welcome',
          variables: { name: 'Ada', product: 'X', actionUrl: 'https://x.example' },
          locale,
        })
      ).subject;
    expect(await subjectIn('de')).toBe('Willkommen bei X, Ada');
    expect(await subjectIn('DE-at')).toBe('Willkommen bei X, Ada');
    expect(await subjectIn('fr')).toBe('Welcome to X, Ada');
    expect(await subjectIn('en-GB')).toBe('Welcome to X, Ada');
    expect(await subjectIn()).toBe('Welcome to X, Ada');
  });

  it.each(emailTemplates.map(({ name, sample }) => ({ name, sample })))(
    '$name takes its variables for data (ASVS 1.3.7)',
    async ({ name, sample }) => {
      const hostile = `{{ 7 | times: 6 }}{% include "/etc/passwd" %}<script>alert(1)</script>"'&\r\nBcc: evil@example.com`;
      const variables = { ...sample };
      for (const key of ['name', 'product', 'seller'])
        if (key in sample) Object.assign(variables, { [key]: hostile });
      const { subject, html, text } = await renderTemplate({ name, variables });
      expect(html).toContain(
        '{{ 7 | times: 6 }}{% include &#34;/etc/passwd&#34; %}&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;',
      );
      expect(html).not.toContain('<script');
      expect(subject).toContain(
        `{{ 7 | times: 6 }}{% include "/etc/passwd" %}<script>alert(1)</script>"'& Bcc: evil@example.com`,
      );
      // Plain text is wrapped.
      expect(text.replace(/\s+/g, ' ')).toContain(
        '{{ 7 | times: 6 }}{% include "/etc/passwd" %}<script>alert(1)</script>',
      );
    },
  );

  it.each([
    'javascript:alert(1)',
    ' JaVaScRiPt:alert(1)',
    'data:text/html,x',
    'file:///etc/passwd',
    'no url',
  ])('refuse %s as a link', async (url) => {
    const variables = { name: 'Ada', product: 'X', actionUrl: url };
    await expect(renderTemplate({ name: 'welcome', variables })).rejects.toBeInstanceOf(InvalidInputError);
  });

  it('say which variable is wrong, and which templates there are', async () => {
    await expect(
      renderTemplate({ name: 'welcome', variables: { name: 'Ada', product: 7, extra: 1 } }),
    ).rejects.toThrow(/do not fit the template "welcome":[^]*product[^]*actionUrl[^]*/);
    await expect(renderTemplate({ name: 'constructor', variables: {} })).rejects.toThrow(
      'There is no e-mail template "constructor"; there are password-reset, receipt, welcome.',
    );
  });
});
