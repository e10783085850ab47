/**
 * Reads a template's files once and makes functions of them: MJML becomes HTML, and that, the subject and the text become
 * Liquid templates. Liquid has no way out to code or files here, and variables are never parsed.
 */
import { readFile } from 'node:fs/promises';
import { Liquid, type Template } from 'liquidjs';
import mjml2html from 'mjml';
import { dropUnsafeLinks } from './safe-links.ts';

export interface CompiledTemplate {
  renderHtml(variables: object): Promise<string>;
  renderSubject(variables: object): Promise<string>;
  /** Undefined when the template leaves the text to be made from the HTML. */
  readonly renderText: ((variables: object) => Promise<string>) | undefined;
}

/**
 * @param folder URL of the template's folder, with a slash at its end.
 * @param locale undefined for the default language, whose files bear no locale in their names.
 */
export async function compileTemplate(folder: URL, locale: string | undefined): Promise<CompiledTemplate> {
  const suffix = locale === undefined ? '' : `.${locale}`;
  const read = (file: string) => readFile(new URL(file, folder), 'utf8');
  const [mjml, subject, text] = await Promise.all([
    read(`template${suffix}.mjml`),
    read(`subject${suffix}.liquid`),
    read(`text${suffix}.liquid`).catch(absentIsUndefined),
  ]);
  // No web fonts: MJML would have every reader's program ask Google for them.
  const { html } = await mjml2html(mjml, { validationLevel: 'strict', fonts: {}, keepComments: true });
  const renderHtml = renderer(htmlEngine, html);
  return {
    renderHtml: async (variables) => dropUnsafeLinks(await renderHtml(variables)),
    renderSubject: renderer(textEngine, subject),
    renderText: text === undefined ? undefined : renderer(textEngine, text),
  };
}

const limits = {
  strictVariables: true,
  // `{% if name %}` is how a template asks for an optional variable.
  lenientIf: true,
  strictFilters: true,
  ownPropertyOnly: true,
  // Instead of a file system: `include`, `render` and `layout` find nothing.
  templates: {},
  parseLimit: 1_000_000,
  renderLimit: 2_000,
  memoryLimit: 10_000_000,
};

const htmlEngine = new Liquid({ ...limits, outputEscape: 'escape' });
const textEngine = new Liquid(limits);

function renderer(engine: Liquid, source: string): (variables: object) => Promise<string> {
  const parsed: Template[] = engine.parse(source);
  return async (variables) => String(await engine.render(parsed, variables));
}

function absentIsUndefined(err: NodeJS.ErrnoException): undefined {
  if (err.code !== 'ENOENT') throw err;
}
