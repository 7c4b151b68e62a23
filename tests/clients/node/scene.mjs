// What the tests of all SDKs share: where the server is, which models it has, and what they say.

export const url = process.env.MODEL_RUNNER_URL;

export const speaker = "ai/tiny-script";
export const caller = "ai/tiny-tools";
export const thinker = "ai/tiny-thinker";
export const jsonSpeaker = "ai/tiny-json";
export const chatterbox = "ai/tiny-random";
export const encoder = "ai/tiny-embed";
export const absent = "ai/absent";

export const spoken =
  "Hello there , this is a tiny test model speaking . Every word you read was scripted in the " +
  "weights so streams can be compared bit for byte 0 1 2 3 4 5 6 7 8 9 end";
export const calledWith = { city: "Paris", days: 3 };
export const toolAnswer = "Three sunny days lie before Paris .";
export const thought = "Let me think about that .";
export const thoughtfulAnswer = "Forty two is what remains";
export const tooLong = "the ".repeat(5000);

export const hello = [{ role: "user", content: "Hello" }];
export const question = { role: "user", content: "What is the weather in Paris?" };

export const weatherSchema = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};

/** How many requests the server has booked as ended by their clients. */
export async function cancelled() {
  const page = await (await fetch(`${url}/metrics`)).text();
  return page
    .split("\n")
    .filter((line) => line.startsWith("model_runner_requests_total{") && line.includes('outcome="cancelled"'))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/** Wait until the server has noticed that a client left. */
export async function cancellation(before) {
  const deadline = Date.now() + 10_000;
  while ((await cancelled()) <= before) {
    if (Date.now() > deadline) throw new Error("the request was not booked as cancelled in 10 s");
    await new Promise((done) => setTimeout(done, 5));
  }
}

/** Gather what an asynchronous sequence gives. */
export async function gather(sequence) {
  const items = [];
  for await (const item of sequence) items.push(item);
  return items;
}
