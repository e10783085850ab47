import { describe, expect, it } from 'vitest';
import { InvalidInputError } from '#shared/tasks/define-task.ts';
import { parseAddress } from './address.ts';

describe('parseAddress', () => {
  it.each([
    ['ada@example.com', '', 'ada@example.com'],
    ['Ada Lovelace <ada@example.com>', 'Ada Lovelace', 'ada@example.com'],
    ['<ada@example.com>', '', 'ada@example.com'],
    [
      "  Zoë O'Brien-Smith Jr. <zoe+news@Mail.Example.COM> ",
      "Zoë O'Brien-Smith Jr.",
      'zoe+news@mail.example.com',
    ],
    ['ada@münchen.example', '', 'ada@xn--mnchen-3ya.example'],
    ['a.b!#$%&*+/=?^_`{|}~-c@x.example', '', 'a.b!#$%&*+/=?^_`{|}~-c@x.example'],
    ['root@localhost', '', 'root@localhost'],
  ])('reads %s', (text, name, address) => {
    expect(parseAddress(text)).toEqual({ name, address, domain: address.slice(address.indexOf('@') + 1) });
  });

  it.each([
    '',
    'ada',
    '@example.com',
    'ada@',
    'ada@@example.com',
    'a@example.com, b@example.com',
    'a@example.com;b@example.com',
    'a@example.com b@example.com',
    'Ada <a@example.com>, Bo <b@example.com>',
    'Ada <a@example.com> <b@example.com>',
    'a@example.com <b@example.com>',
    '"Ada" <a@example.com>',
    '"a b"@example.com',
    'ada(comment)@example.com',
    'Ada (home) <ada@example.com>',
    'Group: a@example.com;',
    'Doe, John <a@example.com>',
    'ada@example.com\r\nBcc: evil@example.com',
    'Ada\n <ada@example.com>',
    'ada@example.com\0',
    'Ada\u2028 <a@example.com>',
    '.ada@example.com',
    'ada.@example.com',
    'a..b@example.com',
    'zoë@example.com',
    'ada@[127.0.0.1]',
    'ada@127.0.0.1',
    'ada@0x7f.1',
    'ada@example..com',
    'ada@-example.com',
    'ada@exa_mple.com',
    'ada@example.com/x',
    'ada@exam%70le.com',
    'ada@example.com:25',
    'ada@example.com.',
    `${'a'.repeat(65)}@example.com`,
    `a@${'b'.repeat(64)}.example`,
    `a@${'b.'.repeat(130)}example`,
    `${'n'.repeat(201)} <a@example.com>`,
  ])('refuses %j', (text) => {
    expect(() => parseAddress(text)).toThrow(InvalidInputError);
  });

  it('says what is wrong', () => {
    expect(() => parseAddress('Doe, John <a@example.com>')).toThrow(
      'The address "Doe, John <a@example.com>" has a , in its name; leave it out (one address each, no quotes).',
    );
  });
});
