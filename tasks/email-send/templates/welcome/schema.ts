import { z } from '#shared/tasks/define-task.ts';

export const schema = z.strictObject({
  name: z.string().min(1).max(200).describe('How the reader is addressed.'),
  product: z.string().min(1).max(200).describe('What the reader has signed up to.'),
  actionUrl: z.url({ protocol: /^https?$/ }).describe('Where the button leads.'),
});
