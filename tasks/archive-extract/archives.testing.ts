/** Archives as tests need them: honest ones, and ones that say something else than they hold. */
import { crc32, deflateRawSync } from 'node:zlib';
import { pack, type Header } from 'tar-stream';

export interface ZipPart {
  readonly name: string | Buffer;
  /** The unpacked bytes. */
  readonly bytes?: Buffer | string;
  readonly method?: number;
  /** What lies in the archive. Default: `bytes`, packed. */
  readonly packed?: Buffer;
  /** Default: names are UTF-8. */
  readonly flags?: number;
  /** The mode of Unix, for example 0o120777 for a symbolic link. */
  readonly mode?: number;
  readonly extra?: Buffer;
  /** What the directory says instead of the truth. */
  readonly says?: {
    readonly crc?: number;
    readonly bytes?: number;
    readonly packedBytes?: number;
    readonly offset?: number;
  };
}

/** A ZIP archive (PKWARE's APPNOTE 4.3). `entries`: what its end says their number is. */
export function makeZip(parts: readonly ZipPart[], { entries = parts.length } = {}): Buffer {
  const files: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const part of parts) {
    const { method = 8, flags = 0x0800, mode = 0o100_644, extra = Buffer.alloc(0), says = {} } = part;
    const name = Buffer.from(part.name);
    const bytes = Buffer.from(part.bytes ?? '');
    const packed = part.packed ?? (method === 8 ? deflateRawSync(bytes) : bytes);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(flags, 2);
    common.writeUInt16LE(method, 4);
    common.writeUInt16LE(0x58_21, 8);
    common.writeUInt32LE(says.crc ?? crc32(bytes), 10);
    common.writeUInt32LE(says.packedBytes ?? packed.length, 14);
    common.writeUInt32LE(says.bytes ?? bytes.length, 18);
    common.writeUInt16LE(name.length, 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), common, name, packed]);
    const place = Buffer.alloc(14);
    place.writeUInt32LE((mode << 16) >>> 0, 6);
    place.writeUInt32LE(says.offset ?? offset, 10);
    const inDirectory = Buffer.from(common);
    inDirectory.writeUInt16LE(extra.length, 24);
    directory.push(Buffer.from('PK\x01\x02\x14\x03', 'latin1'), inDirectory, place, name, extra);
    files.push(local);
    offset += local.length;
  }
  const listing = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(entries & 0xffff, 8);
  end.writeUInt16LE(entries & 0xffff, 10);
  end.writeUInt32LE(listing.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...files, listing, end]);
}

/** The same in ZIP64: sizes and offsets of 64 bits, as of entries and archives beyond 4 GiB. */
export function makeZip64(name: string, bytes: Buffer): Buffer {
  const extra = Buffer.alloc(4 + 24);
  extra.writeUInt16LE(1, 0);
  extra.writeUInt16LE(24, 2);
  extra.writeBigUInt64LE(BigInt(bytes.length), 4);
  extra.writeBigUInt64LE(BigInt(bytes.length), 12);
  extra.writeBigUInt64LE(0n, 20);
  const says = { bytes: 0xffff_ffff, packedBytes: 0xffff_ffff, offset: 0xffff_ffff };
  const plain = makeZip([{ name, bytes, method: 0, extra, says }]);
  const end = plain.subarray(-22);
  const record = Buffer.alloc(56);
  record.write('PK\x06\x06', 'latin1');
  record.writeBigUInt64LE(44n, 4);
  record.writeBigUInt64LE(1n, 24);
  record.writeBigUInt64LE(1n, 32);
  record.writeBigUInt64LE(BigInt(end.readUInt32LE(12)), 40);
  record.writeBigUInt64LE(BigInt(end.readUInt32LE(16)), 48);
  const locator = Buffer.alloc(20);
  locator.write('PK\x06\x07', 'latin1');
  locator.writeBigUInt64LE(BigInt(plain.length - 22), 8);
  locator.writeUInt32LE(1, 16);
  const small = Buffer.from(end);
  small.fill(0xff, 8, 20);
  return Buffer.concat([plain.subarray(0, -22), record, locator, small]);
}

export type TarPart = Partial<Header> & { readonly name: string; readonly bytes?: Buffer | string };

export async function makeTar(parts: readonly TarPart[]): Promise<Buffer> {
  const packer = pack();
  for (const { bytes = '', ...header } of parts) {
    const isFile = header.type === undefined || header.type === 'file';
    if (isFile) packer.entry(header, bytes);
    else packer.entry(header);
  }
  packer.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of packer as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** One header of 512 bytes, as Unix version 7 wrote it unless `magic` says more. */
export function tarHeader(options: {
  name: string | Buffer;
  size?: number;
  type?: string;
  magic?: string;
  link?: string;
}): Buffer {
  const { name, size = 0, type = '0', magic = '', link = '' } = options;
  const header = Buffer.alloc(512);
  Buffer.from(name).copy(header, 0, 0, 100);
  header.write('0000644\0', 100);
  header.write('0000000\0', 108);
  header.write('0000000\0', 116);
  header.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  header.write('00000000000\0', 136);
  header.write('        ', 148);
  header.write(type, 156);
  header.write(link, 157);
  header.write(magic, 257, 'latin1');
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return header;
}

/** What follows a header: the bytes, filled up to whole blocks. */
export function tarBody(bytes: string | Buffer): Buffer {
  const body = Buffer.from(bytes);
  return Buffer.concat([body, Buffer.alloc((512 - (body.length % 512)) % 512)]);
}

export const tarEnd = Buffer.alloc(1_024);
