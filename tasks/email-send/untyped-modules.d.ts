/** What we use of two libraries that come without types. */

declare module 'mjml' {
  export default function mjml2html(
    source: string,
    options?: {
      validationLevel?: 'strict' | 'soft' | 'skip';
      fonts?: Record<string, string>;
      keepComments?: boolean;
    },
  ): Promise<{ html: string; errors: readonly { formattedMessage: string }[] }>;
}

declare module 'html-to-text' {
  export function convert(
    html: string,
    options?: {
      wordwrap?: number | false;
      limits?: { maxInputLength?: number; maxDepth?: number; maxChildNodes?: number };
      selectors?: readonly { selector: string; format?: string; options?: Record<string, unknown> }[];
    },
  ): string;
}
