/** The properties that are known: a key without a value is left out, as the result's type wants it. */
export function compact<Value extends object>(value: Value): Compact<Value> {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- Exactly the undefined ones are gone.
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined)) as Compact<Value>;
}

type Compact<Value> = {
  [Key in keyof Value as undefined extends Value[Key] ? never : Key]: Value[Key];
} & {
  [Key in keyof Value as undefined extends Value[Key] ? Key : never]?: Exclude<Value[Key], undefined>;
};
