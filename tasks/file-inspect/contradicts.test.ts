import { expect, it } from 'vitest';
import { contradicts } from './contradicts.ts';

it.each([
  ['image/jpeg', 'image/jpeg'],
  ['IMAGE/JPG', 'image/jpeg'],
  ['text/plain; charset=utf-8', 'text/plain'],
  ['application/octet-stream', 'image/png'],
  ['', 'image/png'],
  ['text/markdown', 'text/plain'],
  ['text/plain', 'text/csv'],
  ['text/plain', 'application/json'],
  ['application/vnd.api+json', 'application/json'],
  ['application/rss+xml', 'application/xml'],
  ['text/xml', 'application/xml'],
  ['application/javascript', 'text/plain'],
  ['application/epub+zip', 'application/zip'],
  ['application/x-zip-compressed', 'application/zip'],
  ['audio/x-wav', 'audio/wav'],
  ['audio/mp4', 'video/mp4'],
  ['text/csv', 'text/tab-separated-values'],
  ['application/x-ndjson', 'application/json'],
  ['application/x-own-format', 'application/octet-stream'],
  ['image/png', 'application/x-empty'],
  ['image/png', 'image/apng'],
])('%j does not contradict %s', (declared, detected) => {
  expect(contradicts(declared, detected)).toBe(false);
});

it.each([
  ['image/png', 'image/jpeg'],
  ['image/jpeg', 'text/html'],
  ['image/png', 'image/svg+xml'],
  ['text/plain', 'image/png'],
  ['application/pdf', 'text/plain'],
  ['application/pdf', 'application/octet-stream'],
  ['image/jpeg', 'application/octet-stream'],
  ['application/json', 'text/plain'],
  ['text/csv', 'text/html'],
  ['image/jpeg', 'application/zip'],
  ['video/mp4', 'audio/mpeg'],
])('%j contradicts %s', (declared, detected) => {
  expect(contradicts(declared, detected)).toBe(true);
});
