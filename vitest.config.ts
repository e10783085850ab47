import { defineConfig } from 'vitest/config';

// One deadline for everything: tests assert outcomes, never times (times belong to bench/).
export default defineConfig({
  test: {
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 240_000,
    hookTimeout: 240_000,
    include: ['{api,worker,shared,tasks,scripts,test,bench,examples}/**/*.test.ts'],
    maxWorkers: 3,
  },
});
