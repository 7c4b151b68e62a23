// Reports each test as a line of JSON, for tests/support/suites.py.

import { inspect } from "node:util";

export default async function* report(events) {
  for await (const { type, data } of events) {
    if (type === "test:pass" || type === "test:fail") {
      const error = data.details?.error;
      const failure = type === "test:fail" ? inspect(error?.cause ?? error, { depth: 4 }) : null;
      yield JSON.stringify({ name: data.name, failure }) + "\n";
    }
  }
}
