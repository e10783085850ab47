import { z } from '#shared/tasks/define-task.ts';

const amount = z
  .string()
  .min(1)
  .max(40)
  .describe('As it is to be shown, with its currency: amounts are not computed here.');

export const schema = z.strictObject({
  name: z.string().min(1).max(200).describe('How the reader is addressed.'),
  seller: z.string().min(1).max(200),
  number: z.string().min(1).max(60).describe('Number of the receipt.'),
  date: z.string().min(1).max(40).describe('As it is to be shown.'),
  items: z
    .array(z.strictObject({ name: z.string().min(1).max(200), quantity: z.int().min(1), amount }))
    .min(1)
    .max(100),
  total: amount,
  receiptUrl: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe('Where the receipt can be seen again.'),
});
