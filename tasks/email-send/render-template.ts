import { InvalidInputError, z } from '#shared/tasks/define-task.ts';
import type { CompiledTemplate } from './compile-template.ts';
import { htmlToPlainText } from './html-to-plain-text.ts';
import { oneLine } from './one-line.ts';
import { emailTemplates, findEmailTemplate, type EmailTemplate } from './template-list.ts';

export interface RenderedEmail {
  readonly subject: string;
  readonly html: string;
  readonly text: string;
}

/**
 * Fills a template in, in the language asked for, else in a wider one (`de` for `de-AT`), else in its default one.
 * @throws InvalidInputError for an unknown template, or variables that do not fit its schema.
 */
export async function renderTemplate(options: {
  name: string;
  variables: Readonly<Record<string, unknown>>;
  locale?: string | undefined;
}): Promise<RenderedEmail> {
  const template = findEmailTemplate(options.name);
  if (template === undefined) {
    const names = emailTemplates.map(({ name }) => name).join(', ');
    throw new InvalidInputError(
      `There is no e-mail template ${JSON.stringify(options.name)}; there are ${names}.`,
    );
  }
  const parsed = template.schema.safeParse(options.variables);
  if (!parsed.success) {
    throw new InvalidInputError(
      `The variables do not fit the template "${template.name}":\n${z.prettifyError(parsed.error)}`,
    );
  }
  const compiled = await getCompiled(template, chooseLocale(template, options.locale));
  const html = await compiled.renderHtml(parsed.data);
  const text =
    compiled.renderText === undefined ? htmlToPlainText(html) : await compiled.renderText(parsed.data);
  return { subject: oneLine(await compiled.renderSubject(parsed.data)), html, text };
}

function chooseLocale(template: EmailTemplate, asked: string | undefined): string | undefined {
  const [standard, ...others] = template.locales;
  for (let tag = asked?.toLowerCase() ?? ''; tag !== ''; tag = tag.replace(/(^|-)[^-]*$/, '')) {
    if (tag === standard) return undefined;
    const found = others.find((locale) => locale.toLowerCase() === tag);
    if (found !== undefined) return found;
  }
  return undefined;
}

const compiled = new Map<string, Promise<CompiledTemplate>>();

/** Compiles each template once, when it is first used: most workers never need MJML, which takes long to load. */
function getCompiled(template: EmailTemplate, locale: string | undefined): Promise<CompiledTemplate> {
  const key = `${template.name} ${locale ?? ''}`;
  const known = compiled.get(key);
  if (known !== undefined) return known;
  const made = import('./compile-template.ts').then(({ compileTemplate }) =>
    compileTemplate(new URL(`./templates/${template.name}/`, import.meta.url), locale),
  );
  compiled.set(key, made);
  return made;
}
