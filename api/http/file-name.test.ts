import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { cleanFileName, cleanMediaType, contentDisposition, parseContentDisposition } from './file-name.ts';

/** Text with everything in it: lone surrogates, controls, separators, combining marks, and very long. */
const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 600 }),
  fc.string({
    unit: fc.constantFrom(
      '/',
      '\\',
      '.',
      ' ',
      'a',
      '\u0301',
      '\u202e',
      '\0',
      '\ud800',
      '🙂',
      'é',
      '"',
      '%',
      "'",
      ';',
    ),
  }),
  fc.string({ unit: 'grapheme', minLength: 200, maxLength: 400 }),
);

describe('cleanFileName', () => {
  test.for<[string, string]>([
    ['report.pdf', 'report.pdf'],
    ['../../etc/passwd', 'passwd'],
    ['C:\\Users\\me\\photo.jpg', 'photo.jpg'],
    ['a/b\\c/d.txt', 'd.txt'],
    ['..', 'file'],
    ['.', 'file'],
    ['', 'file'],
    ['folder/', 'file'],
    [' \t ', 'file'],
    ['a\r\nSet-Cookie: x.txt', 'aSet-Cookie: x.txt'],
    ['nul\0byte.png', 'nulbyte.png'],
    ['..\u202e', 'file'],
    ['\u202egpj.exe', 'gpj.exe'],
    ['.bashrc', '.bashrc'],
    // é as e and an accent becomes one character.
    ['cafe\u0301.txt', 'caf\u00e9.txt'],
    ['half\ud83d.txt', 'half\ufffd.txt'],
    ['日本語.txt', '日本語.txt'],
  ])('%j becomes %j', ([raw, clean]) => {
    expect(cleanFileName(raw)).toBe(clean);
  });

  test('a name that is too long is cut at a character and keeps its extension', () => {
    expect(cleanFileName(`${'é'.repeat(200)}.jpeg`)).toBe(`${'é'.repeat(125)}.jpeg`);
    expect(cleanFileName('🙂'.repeat(100))).toBe('🙂'.repeat(63));
    expect(cleanFileName(`a.${'x'.repeat(300)}`)).toBe(`a.${'x'.repeat(253)}`);
  });

  // ASVS 5.3.2
  test('whatever comes in, the name is one harmless, normal, non-empty path segment of at most 255 bytes', () => {
    fc.assert(
      fc.property(anyText, (raw) => {
        const name = cleanFileName(raw);
        expect(name).not.toMatch(/[/\\\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/u);
        expect(['', '.', '..']).not.toContain(name);
        expect(Buffer.byteLength(name)).toBeLessThanOrEqual(255);
        expect(name.isWellFormed()).toBe(true);
        expect(name.normalize('NFC')).toBe(name);
        expect(cleanFileName(name), 'cleaning twice changes nothing').toBe(name);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('contentDisposition', () => {
  test.for<[string, string]>([
    ['report.pdf', 'attachment; filename="report.pdf"'],
    [
      'naïve "plan" 100%.txt',
      `attachment; filename="na_ve _plan_ 100_.txt"; filename*=UTF-8''na%C3%AFve%20%22plan%22%20100%25.txt`,
    ],
    ["it's (1)*.txt", `attachment; filename="it's (1)*.txt"`],
    ["é'()*", `attachment; filename="_'()*"; filename*=UTF-8''%C3%A9%27%28%29%2A`],
  ])('%j is sent as %s', ([name, header]) => {
    expect(contentDisposition(name, 'attachment')).toBe(header);
  });

  test('every name survives the way to a client and back, in a header of visible ASCII', () => {
    fc.assert(
      fc.property(anyText, (raw) => {
        const name = cleanFileName(raw);
        const header = contentDisposition(name, 'inline');
        expect(header).toMatch(/^inline; filename="[\x20-\x7e]*"/);
        expect(header).toMatch(/^[\x20-\x7e]*$/);
        expect(parseContentDisposition(header)).toEqual({ type: 'inline', name: undefined, fileName: name });
      }),
      { numRuns: 2_000 },
    );
  });

  test('a name that never was cleaned cannot break out of the header either', () => {
    fc.assert(
      fc.property(anyText, (raw) => {
        expect(contentDisposition(raw, 'attachment')).toMatch(
          /^attachment; filename="[^"\\]*"(; filename\*=UTF-8''[\w!%.~-]*)?$/,
        );
      }),
    );
  });
});

describe('parseContentDisposition', () => {
  test.for([
    ['attachment', { type: 'attachment', name: undefined, fileName: undefined }],
    ['form-data; name="file"; filename="a.txt"', { type: 'form-data', name: 'file', fileName: 'a.txt' }],
    ['Form-Data;NAME=file;FileName=a.txt', { type: 'form-data', name: 'file', fileName: 'a.txt' }],
    ['form-data ; name = "file" ;', { type: 'form-data', name: 'file', fileName: undefined }],
    [String.raw`form-data; name="a\"b\\c"`, { type: 'form-data', name: 'a"b\\c', fileName: undefined }],
    [
      String.raw`attachment; filename="C:\dir\new.txt"`,
      { type: 'attachment', name: undefined, fileName: 'C:\\dir\\new.txt' },
    ],
    ['attachment; filename="a;b=c.txt"', { type: 'attachment', name: undefined, fileName: 'a;b=c.txt' }],
    [
      "attachment; filename=x; filename*=UTF-8''%e2%82%ac",
      { type: 'attachment', name: undefined, fileName: '€' },
    ],
    [
      "attachment; filename*=utf-8'de'%E2%82%AC; filename=x",
      { type: 'attachment', name: undefined, fileName: '€' },
    ],
    ["attachment; filename*=ISO-8859-1''%A3", { type: 'attachment', name: undefined, fileName: '£' }],
    // A broken filename* leaves the plain one.
    ["attachment; filename=x; filename*=UTF-8''%ff", { type: 'attachment', name: undefined, fileName: 'x' }],
    ["attachment; filename=x; filename*=UTF-16''ab", { type: 'attachment', name: undefined, fileName: 'x' }],
    ['form-data; name=""', { type: 'form-data', name: '', fileName: undefined }],
    // As Node gives raw UTF-8 and raw Latin-1.
    [
      `attachment; filename="${Buffer.from('ü').toString('latin1')}"`,
      { type: 'attachment', name: undefined, fileName: 'ü' },
    ],
    ['attachment; filename="\u00fc"', { type: 'attachment', name: undefined, fileName: 'ü' }],
    ['attachment; __proto__=x', { type: 'attachment', name: undefined, fileName: undefined }],
  ] as const)('%s', ([header, expected]) => {
    expect(parseContentDisposition(header)).toEqual(expected);
  });

  test.for([
    '',
    ';',
    '"x"',
    'form-data; name="unclosed',
    'form-data; name',
    'form-data; name="a"b',
    'form-data; name=a; name=b',
    'form-data; NAME=a; name=b',
    'a b; name=c',
    'form-data; name="a\\"',
  ])('%j is malformed', (header) => {
    expect(parseContentDisposition(header)).toBeUndefined();
  });

  // ASVS 1.3.12
  test.for([
    `a; b=${' '.repeat(100_000)}"`,
    `a${'; '.repeat(50_000)}"`,
    `a; ${'b'.repeat(100_000)}`,
    `a; b="${'\\'.repeat(99_999)}`,
  ])('a hostile header of 100 kB is read in linear time (%#)', (header) => {
    const startedAt = performance.now();
    expect(parseContentDisposition(header)).toBeUndefined();
    // Quadratic work on it takes tens of seconds.
    expect(performance.now() - startedAt).toBeLessThan(2_000);
  });

  test('no text makes it throw', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary' }),
        (text) => void parseContentDisposition(`form-data; ${text}`),
      ),
    );
    expect.assertions(0);
  });
});

describe('cleanMediaType', () => {
  test.for([
    ['image/PNG', 'image/png'],
    ['text/plain; charset="UTF-8"; format=flowed', 'text/plain; charset=utf-8'],
    ['application/vnd.api+json', 'application/vnd.api+json'],
    [undefined, 'application/octet-stream'],
    ['', 'application/octet-stream'],
    ['text', 'application/octet-stream'],
    ['text/html\r\nX: y', 'application/octet-stream'],
    ['text/plain; charset=a\r\nX', 'text/plain'],
  ] as const)('%j becomes %j', ([raw, type]) => {
    expect(cleanMediaType(raw)).toBe(type);
  });
});
