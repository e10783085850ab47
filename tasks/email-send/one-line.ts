/** Text for a header: a line break would end it and begin another. */
export function oneLine(text: string): string {
  // oxlint-disable-next-line no-control-regex -- Control characters are what it takes out.
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ').trim();
}
