/** HTML that was escaped where it had to be. */
export interface Html {
  readonly html: string;
}

export type HtmlValue = Html | string | number | false | undefined | readonly HtmlValue[];

/** A template whose every value is escaped, unless it is `Html` itself. Lists are joined; false and undefined are nothing. */
export function html(strings: TemplateStringsArray, ...values: readonly HtmlValue[]): Html {
  return { html: strings.reduce((text, part, index) => text + toText(values[index - 1]) + part) };
}

function toText(value: HtmlValue): string {
  if (value === undefined || value === false) return '';
  if (typeof value === 'string' || typeof value === 'number') return escapeHtml(String(value));
  return 'html' in value ? value.html : value.map(toText).join('');
}

/** Safe in text and in quoted attributes. */
export function escapeHtml(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** Plain text in which only `code` means something. */
export function prose(text: string): Html {
  return html`${text.split('`').map((part, index) => (index % 2 === 0 ? part : html`<code>${part}</code>`))}`;
}

/** Longer descriptions: a line is a paragraph, or an item of a list when it begins with "- ". */
export function paragraphs(text: string): Html {
  const blocks: (string | string[])[] = [];
  for (const line of text.split('\n').filter((line) => line !== '')) {
    const last = blocks.at(-1);
    if (!line.startsWith('- ')) blocks.push(line);
    else if (Array.isArray(last)) last.push(line.slice(2));
    else blocks.push([line.slice(2)]);
  }
  return html`${blocks.map((block) =>
    Array.isArray(block)
      ? html`<ul>
          ${block.map((item) => html`<li>${prose(item)}</li>`)}
        </ul>`
      : html`<p>${prose(block)}</p>`,
  )}`;
}
