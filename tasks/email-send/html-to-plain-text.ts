import { convert } from 'html-to-text';

/** Text for those who read without HTML. Links stand behind their words; pictures are left out. */
export function htmlToPlainText(html: string): string {
  return convert(html, {
    wordwrap: 78,
    limits: { maxInputLength: 2_000_000, maxDepth: 100, maxChildNodes: 10_000 },
    selectors: [
      { selector: 'img', format: 'skip' },
      // The line that mail programs show beside the subject.
      { selector: '[style*="display:none"]', format: 'skip' },
      { selector: 'a', options: { ignoreHref: false, hideLinkHrefIfSameAsText: true } },
      { selector: 'h1', options: { uppercase: false } },
      { selector: 'h2', options: { uppercase: false } },
      { selector: 'h3', options: { uppercase: false } },
    ],
  });
}
