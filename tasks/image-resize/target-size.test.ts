import fc from 'fast-check';
import sharp from 'sharp';
import { expect, it } from 'vitest';
import { effectiveFit, targetSize } from './target-size.ts';

it('foretells the size that sharp gives, or one that is larger by a pixel', async () => {
  const side = fc.integer({ min: 1, max: 60 });
  const request = fc.record({
    width: fc.option(side, { nil: undefined }),
    height: fc.option(side, { nil: undefined }),
    fit: fc.constantFrom('cover', 'contain', 'fill', 'inside', 'outside'),
    withoutEnlargement: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(side, side, request, async (width, height, request) => {
      fc.pre(request.width !== undefined || request.height !== undefined);
      const planned = targetSize({ width, height }, request);
      const source = sharp({ create: { width, height, channels: 3, background: '#000' } });
      const { info } = await source
        .resize(defined({ ...request, fit: effectiveFit(request) }))
        .raw()
        .toBuffer({ resolveWithObject: true });
      expect(Math.abs(planned.width - info.width)).toBeLessThanOrEqual(1);
      expect(Math.abs(planned.height - info.height)).toBeLessThanOrEqual(1);
    }),
    { numRuns: 500 },
  );
});

it('is the size of the source when no side is asked for', () => {
  const source = { width: 30, height: 20 };
  expect(targetSize(source, { fit: 'cover', withoutEnlargement: false })).toEqual(source);
});

function defined<Value extends object>(value: Value): Partial<Value> {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- Some of the entries of a Value are a partial Value.
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined)) as Partial<Value>;
}
