import { describe, expect, it } from 'vitest';
import { readRefusals, toDeliveryError } from './delivery-error.ts';

const error = (fields: object) => Object.assign(new Error('x'), fields);

describe('toDeliveryError', () => {
  it.each([
    // What was handed over and never answered may have been taken; what was answered was not.
    [{ code: 'ECONNECTION', command: 'CONN' }, true, 'unknown'],
    [{ code: 'ETIMEDOUT', command: 'CONN' }, true, 'unknown'],
    [{ code: 'EMESSAGE', command: 'DATA', responseCode: 554 }, true, 'refused'],
    [{ code: 'EMESSAGE', command: 'DATA', responseCode: 451 }, true, 'deferred'],
    [{ code: 'EMESSAGE', command: 'DATA', responseCode: 421 }, true, 'unavailable'],
    [{ code: 'ECONNECTION', command: 'CONN' }, false, 'unavailable'],
    [{ code: 'ETIMEDOUT', command: 'CONN' }, false, 'unavailable'],
    [{ code: 'EDNS', command: 'CONN' }, false, 'unavailable'],
    [{ code: 'EENVELOPE', command: 'RCPT TO', responseCode: 550 }, false, 'refused'],
    [{ code: 'EENVELOPE', command: 'RCPT TO', responseCode: 450 }, false, 'deferred'],
    [{ code: 'EENVELOPE', command: 'MAIL FROM', responseCode: 530 }, false, 'refused'],
    [{ code: 'EPROTOCOL', command: 'CONN', responseCode: 554 }, false, 'broken'],
    [{ code: 'EAUTH', command: 'AUTH PLAIN', responseCode: 535 }, false, 'broken'],
    [{ code: 'ETLS', command: 'STARTTLS' }, false, 'broken'],
  ])('%j, handed over %s: %s', (fields, isHandedOver, problem) => {
    expect(toDeliveryError(error(fields), isHandedOver).problem).toBe(problem);
  });
});

describe('readRefusals', () => {
  it.each([
    ['550 5.1.1 No such user', true],
    ['550 No such user', true],
    ['551 User not local', true],
    ['553 Mailbox name not allowed', true],
    ['550 5.2.1 Mailbox disabled', true],
    ['550 5.7.1 Relaying denied', false],
    ['552 5.2.2 Mailbox full', false],
    ['554 Transaction failed', false],
    ['450 4.1.1 Try later', false],
  ])('%s: is the address dead? %s', (response, isAddressDead) => {
    const refused = error({
      recipient: 'a@example.com',
      response,
      responseCode: Number(response.slice(0, 3)),
    });
    expect(readRefusals([refused])).toEqual([{ address: 'a@example.com', reason: response, isAddressDead }]);
  });
});
