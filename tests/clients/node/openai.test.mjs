// OpenAI's Node SDK: chats, tools, schemas, embeddings, errors and aborts.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import * as scene from "./scene.mjs";

const client = new OpenAI({ baseURL: `${scene.url}/v1`, apiKey: "none" });
const hello = { model: scene.speaker, messages: scene.hello, temperature: 0 };
const tools = [{ type: "function", function: { name: "get_weather", parameters: scene.weatherSchema } }];
const Stay = z.object({ city: z.string(), days: z.number().int() });

test("a chat is answered", async () => {
  const completion = await client.chat.completions.create(hello);
  assert.equal(completion.choices[0].message.content.trim(), scene.spoken);
  assert.equal(completion.choices[0].finish_reason, "stop");
  assert.ok(completion._request_id);
});

test("a chat is streamed", async () => {
  const stream = await client.chat.completions.create({
    ...hello, stream: true, stream_options: { include_usage: true },
  });
  const chunks = await scene.gather(stream);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text.trim(), scene.spoken);
  assert.ok(chunks.at(-1).usage.completion_tokens > 10);
});

test("the stream helper accumulates", async () => {
  const heard = [];
  const stream = client.chat.completions.stream(hello).on("content", (delta) => heard.push(delta));
  const completion = await stream.finalChatCompletion();
  assert.equal(heard.join("").trim(), scene.spoken);
  assert.equal(completion.choices[0].message.content.trim(), scene.spoken);
  assert.equal(completion.choices[0].message.role, "assistant");
});

test("a schema is parsed", async () => {
  const completion = await client.chat.completions.parse({
    ...hello, model: scene.jsonSpeaker, response_format: zodResponseFormat(Stay, "stay"),
  });
  assert.deepEqual(completion.choices[0].message.parsed, scene.calledWith);
});

test("tools are run to the answer", async () => {
  const asked = [];
  const runner = client.chat.completions.runTools({
    ...hello,
    model: scene.caller,
    messages: [scene.question],
    tools: [{
      type: "function",
      function: {
        name: "get_weather",
        parse: JSON.parse,
        parameters: scene.weatherSchema,
        function: (wish) => { asked.push(wish); return "clear"; },
      },
    }],
  });
  assert.equal((await runner.finalContent()).trim(), scene.toolAnswer);
  assert.deepEqual(asked, [scene.calledWith]);
});

test("tools are run to the answer over streams", async () => {
  const asked = [];
  const runner = client.chat.completions.runTools({
    ...hello,
    model: scene.caller,
    messages: [scene.question],
    stream: true,
    tools: [{
      type: "function",
      function: {
        name: "get_weather",
        parse: JSON.parse,
        parameters: scene.weatherSchema,
        function: (wish) => { asked.push(wish); return "clear"; },
      },
    }],
  });
  assert.equal((await runner.finalContent()).trim(), scene.toolAnswer);
  assert.deepEqual(asked, [scene.calledWith]);
});

test("a streamed call is accumulated", async () => {
  const stream = client.chat.completions.stream({ ...hello, model: scene.caller, tools });
  const { message } = (await stream.finalChatCompletion()).choices[0];
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), scene.calledWith);
});

test("texts are embedded", async () => {
  const answer = await client.embeddings.create({ model: scene.encoder, input: ["the", "of"] });
  assert.deepEqual(answer.data.map((item) => item.embedding.length), [64, 64]);
});

test("models are listed", async () => {
  const models = await scene.gather(client.models.list());
  assert.ok(models.some((model) => model.id.includes(scene.speaker)));
});

test("an absent model is not found", async () => {
  await assert.rejects(client.chat.completions.create({ ...hello, model: scene.absent }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    assert.ok(error.requestID);
    return true;
  });
});

test("an overflow is a bad request", async () => {
  const messages = [{ role: "user", content: scene.tooLong }];
  await assert.rejects(client.chat.completions.create({ ...hello, messages }), OpenAI.BadRequestError);
});

test("an abort ends the generation", async () => {
  const before = await scene.cancelled();
  const stream = await client.chat.completions.create({ ...hello, model: scene.chatterbox, stream: true });
  for await (const _ of stream) break;
  stream.controller.abort();
  await scene.cancellation(before);
});

test("a timeout ends the generation", async () => {
  const before = await scene.cancelled();
  const asked = client.chat.completions.create(
    { ...hello, model: scene.chatterbox, n: 2 }, { timeout: 200, maxRetries: 0 },
  );
  await assert.rejects(asked, OpenAI.APIConnectionTimeoutError);
  await scene.cancellation(before);
});
