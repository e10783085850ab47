import { z } from '#shared/tasks/define-task.ts';

export const schema = z.strictObject({
  name: z.string().min(1).max(200).optional().describe('How the reader is addressed.'),
  product: z.string().min(1).max(200).describe('What the password is for.'),
  resetUrl: z.url({ protocol: /^https?$/ }).describe('Where a new password is set; it should work once.'),
  validMinutes: z.int().min(1).max(10_080).describe('How long the link works, in minutes.'),
});
