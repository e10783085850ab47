/** An entry as a reader of a format finds it. Everything in it was written by a stranger. */
export interface ArchiveEntry {
  /** Decoded, with whatever was in it. */
  readonly rawPath: string;
  readonly kind: 'file' | 'directory' | 'link' | 'device' | 'unsupported';
  /** What the archive says. */
  readonly statedBytes: number;
  /**
   * The unpacked bytes, once.
   * @throws InvalidInputError when it cannot be unpacked, and Error of the libraries below for what is damaged.
   */
  read(): AsyncIterable<Uint8Array>;
}
