import { defineTask, fileRef, z } from 'windlass/task';

export const task = defineTask({
  name: 'word.count',
  title: 'Count words',
  description: 'Counts the words of a text file.',
  input: z.strictObject({
    file: fileRef().describe('The text, in UTF-8.'),
    top: z.int().min(1).max(100).default(10).describe('How many of the most frequent words to name.'),
  }),
  output: z.object({
    words: z.int(),
    top: z.array(z.object({ word: z.string(), count: z.int() })),
    file: fileRef().describe('All words with their counts, as CSV.'),
  }),
  example: { file: '0199d7a3-1f5c-7cc0-8000-000000000000', top: 3 },
});
