import { describe, expect, it } from 'vitest';
import { checkHeaders } from './header-list.ts';

describe('checkHeaders', () => {
  it.each(['In-Reply-To', 'references', 'LIST-ID', 'Auto-Submitted', 'X-Campaign', 'X-Entity-Ref-ID'])(
    'takes %s',
    (key) => {
      expect(checkHeaders({ [key]: 'value' })).toEqual([{ key, value: 'value' }]);
    },
  );

  it.each([
    'To',
    'cc',
    'BCC',
    'From',
    'Sender',
    'Reply-To',
    'Return-Path',
    'Subject',
    'Date',
    'Message-ID',
    'MIME-Version',
    'Content-Type',
    'Content-Transfer-Encoding',
    'Received',
    'DKIM-Signature',
    'Resent-To',
    'Resent-Bcc',
    'Disposition-Notification-To',
    'List-Unsubscribe',
    'X-MC-BccAddress',
    'X-SMTPAPI',
    'X-Mailgun-Variables',
    'X-SES-Configuration-Set',
    'X-Bcc',
    'X-Envelope-To',
    'Bcc ',
    'Bcc:',
    'X A',
    'X\r\nBcc',
    '',
  ])('refuses %j', (key) => {
    expect(() => checkHeaders({ [key]: 'evil@example.com' })).toThrow(
      /cannot be set|not the name of a header/,
    );
  });

  it.each(['a\r\nBcc: evil@example.com', 'a\nb', 'a\rb', 'a\0'])('refuses the value %j', (value) => {
    expect(() => checkHeaders({ 'X-A': value })).toThrow('line break or control character');
  });
});
