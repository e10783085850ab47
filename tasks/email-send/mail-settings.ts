import { InvalidInputError, z } from '#shared/tasks/define-task.ts';
import { parseAddress, parseDomain, type MailAddress } from './address.ts';

export interface MailSettings {
  readonly server: MailServer;
  readonly from: MailAddress;
  /** Domains that a sender may be of, in lower case. */
  readonly fromDomains: readonly string[];
}

export interface MailServer {
  readonly host: string;
  readonly port: number;
  /** TLS from the first byte (smtps) rather than by STARTTLS. */
  readonly isTls: boolean;
  readonly isTlsRequired: boolean;
  readonly login: { readonly user: string; readonly password: string } | undefined;
}

const schema = z.object({
  SMTP_URL: z.string().optional(),
  SMTP_FROM: z.string(),
  SMTP_FROM_DOMAINS: z.array(z.string()).default([]),
  SMTP_REQUIRE_TLS: z.boolean().default(false),
});

/** @throws InvalidInputError when no mail server is set: no attempt can help until an operator has set one. */
export function readMailSettings(settings: Readonly<Record<string, unknown>>): MailSettings {
  const parsed = schema.parse(settings);
  if (parsed.SMTP_URL === undefined) {
    throw new InvalidInputError(
      'No mail server is set up. Set SMTP_URL (as smtp://user:password@host:587) for the workers, then retry the job.',
    );
  }
  const from = parseAddress(parsed.SMTP_FROM);
  const domains = parsed.SMTP_FROM_DOMAINS.map((domain) => parseDomain(domain) ?? domain);
  return {
    server: parseServer(parsed.SMTP_URL, parsed.SMTP_REQUIRE_TLS),
    from,
    fromDomains: domains.length > 0 ? domains : [from.domain],
  };
}

function parseServer(text: string, isTlsRequired: boolean): MailServer {
  const url = new URL(text);
  const isTls = url.protocol === 'smtps:';
  const user = decodeURIComponent(url.username);
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? (isTls ? 465 : 587) : Number(url.port),
    isTls,
    isTlsRequired,
    login: user === '' ? undefined : { user, password: decodeURIComponent(url.password) },
  };
}
