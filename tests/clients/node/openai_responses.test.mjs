// OpenAI's Node SDK: responses, and Vercel's AI SDK over them, which its OpenAI provider uses unless told otherwise.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import * as scene from "./scene.mjs";

const client = new OpenAI({ baseURL: `${scene.url}/v1`, apiKey: "none" });
const provider = createOpenAI({ baseURL: `${scene.url}/v1`, apiKey: "none" });
const hello = { model: scene.speaker, input: "Hello", temperature: 0 };
const weather = { type: "function", name: "get_weather", parameters: scene.weatherSchema, strict: true };
const Stay = z.object({ city: z.string(), days: z.number().int() });
const prompt = "What is the weather in Paris?";

test("a response is created, kept and deleted", async () => {
  const response = await client.responses.create(hello);
  assert.equal(response.output_text.trim(), scene.spoken);
  assert.equal((await client.responses.retrieve(response.id)).output_text.trim(), scene.spoken);
  await client.responses.delete(response.id);
  await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError);
});

test("a response is streamed", async () => {
  const events = await scene.gather(await client.responses.create({ ...hello, stream: true }));
  const text = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta);
  assert.equal(text.join("").trim(), scene.spoken);
  assert.equal(events.at(-1).type, "response.completed");
});

test("the stream helper accumulates", async () => {
  const response = await client.responses.stream(hello).finalResponse();
  assert.equal(response.output_text.trim(), scene.spoken);
});

test("a schema is parsed", async () => {
  const response = await client.responses.parse({
    ...hello, model: scene.jsonSpeaker, text: { format: zodTextFormat(Stay, "stay") },
  });
  assert.deepEqual(response.output_parsed, scene.calledWith);
});

test("a function is called and answered over stored turns", async () => {
  const fields = { ...hello, model: scene.caller, tools: [weather] };
  const called = await client.responses.create({ ...fields, input: [scene.question] });
  const [call] = called.output;
  assert.deepEqual(JSON.parse(call.arguments), scene.calledWith);
  const answer = await client.responses.create({
    ...fields,
    previous_response_id: called.id,
    input: [{ type: "function_call_output", call_id: call.call_id, output: "clear" }],
  });
  assert.equal(answer.output_text.trim(), scene.toolAnswer);
});

test("a wrong request is a bad one", async () => {
  const asked = client.responses.create({ ...hello, previous_response_id: "resp_absent" });
  await assert.rejects(asked, OpenAI.BadRequestError);
});

test("an abort ends the generation", async () => {
  const before = await scene.cancelled();
  const stream = await client.responses.create({ ...hello, model: scene.chatterbox, stream: true });
  for await (const event of stream) if (event.type === "response.output_text.delta") break;
  stream.controller.abort();
  await scene.cancellation(before);
});

test("ai: a text is generated", async () => {
  const { text, usage } = await generateText({ model: provider(scene.speaker), prompt, temperature: 0 });
  assert.equal(text.trim(), scene.spoken);
  assert.ok(usage.outputTokens > 10);
});

test("ai: a text is streamed", async () => {
  const result = streamText({ model: provider(scene.speaker), prompt, temperature: 0 });
  assert.equal((await scene.gather(result.textStream)).join("").trim(), scene.spoken);
});

test("ai: a streamed tool loop ends with an answer", async () => {
  const asked = [];
  const get_weather = tool({
    description: "weather of a city", inputSchema: Stay,
    execute: async (wish) => { asked.push(wish); return { sky: "clear" }; },
  });
  const result = streamText({
    model: provider(scene.caller), prompt, tools: { get_weather }, temperature: 0, stopWhen: stepCountIs(3),
  });
  const parts = await scene.gather(result.fullStream);
  assert.deepEqual(parts.filter((part) => part.type === "error"), []);
  assert.equal((await result.text).trim(), scene.toolAnswer);
  assert.deepEqual(asked, [scene.calledWith]);
});

test("ai: an object is generated from a schema", async () => {
  const { output } = await generateText({
    model: provider(scene.jsonSpeaker), prompt, temperature: 0, output: Output.object({ schema: Stay }),
  });
  assert.deepEqual(output, scene.calledWith);
});

test("ai: a conversation goes on with items that are only named", async () => {
  const model = provider(scene.speaker);
  const first = await generateText({ model, prompt, temperature: 0 });
  const messages = [
    { role: "user", content: prompt }, ...first.response.messages, { role: "user", content: "And then?" },
  ];
  const second = await generateText({ model, messages, temperature: 0 });
  assert.match(JSON.stringify(second.request.body), /item_reference/);
  assert.equal(second.text.trim(), scene.spoken);
  assert.ok(second.usage.inputTokens > first.usage.inputTokens + first.usage.outputTokens);
});
