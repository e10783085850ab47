/** Text from the data as it may stand in a result: cut, and without what JSON in Postgres cannot hold. */
export function safeText(text: string, charsMax: number): string {
  const cut = text.length > charsMax ? `${text.slice(0, charsMax)}…` : text;
  return cut.toWellFormed().replaceAll('\0', '\uFFFD');
}
