// Ollama's Node SDK: chats, texts, tools, schemas, thoughts, embeddings, errors and aborts.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Ollama } from "ollama";

import * as scene from "./scene.mjs";

const client = new Ollama({ host: scene.url });
const options = { temperature: 0 };
const hello = { model: scene.speaker, messages: scene.hello, options };
const tools = [{
  type: "function",
  function: { name: "get_weather", description: "weather of a city", parameters: scene.weatherSchema },
}];

test("a chat is answered", async () => {
  const answer = await client.chat(hello);
  assert.equal(answer.message.content.trim(), scene.spoken);
  assert.equal(answer.done_reason, "stop");
  assert.ok(answer.eval_count > 10);
});

test("a chat is streamed", async () => {
  const lines = await scene.gather(await client.chat({ ...hello, stream: true }));
  assert.equal(lines.map((line) => line.message.content).join("").trim(), scene.spoken);
  assert.equal(lines.at(-1).done, true);
});

test("a text is generated and streamed", async () => {
  const fields = { model: scene.speaker, prompt: "Hello", options };
  assert.equal((await client.generate(fields)).response.trim(), scene.spoken);
  const lines = await scene.gather(await client.generate({ ...fields, stream: true }));
  assert.equal(lines.map((line) => line.response).join("").trim(), scene.spoken);
});

test("a tool loop ends with an answer", async () => {
  const fields = { ...hello, model: scene.caller, tools };
  const { message } = await client.chat({ ...fields, messages: [scene.question] });
  assert.equal(message.tool_calls[0].function.name, "get_weather");
  assert.deepEqual(message.tool_calls[0].function.arguments, scene.calledWith);
  const result = { role: "tool", tool_name: "get_weather", content: "clear" };
  const answer = await client.chat({ ...fields, messages: [scene.question, message, result] });
  assert.equal(answer.message.content.trim(), scene.toolAnswer);
});

test("a schema binds the answer", async () => {
  const { message } = await client.chat({ ...hello, model: scene.jsonSpeaker, format: scene.weatherSchema });
  assert.deepEqual(JSON.parse(message.content), scene.calledWith);
});

test("thoughts stand beside the answer", async () => {
  const { message } = await client.chat({ ...hello, model: scene.thinker, think: true });
  assert.equal(message.content.trim(), scene.thoughtfulAnswer);
  assert.equal(message.thinking.trim(), scene.thought);
});

test("texts are embedded", async () => {
  const { embeddings } = await client.embed({ model: scene.encoder, input: ["the", "of"] });
  assert.deepEqual(embeddings.map((one) => one.length), [64, 64]);
});

test("a wrong request says why", async () => {
  await assert.rejects(client.chat({ ...hello, model: scene.absent }), (error) => {
    assert.equal(error.status_code, 404);
    assert.match(error.message, /not found/);
    return true;
  });
  await assert.rejects(client.chat({ ...hello, tools }), /does not support tools/);
});

test("an abort ends the generation", async () => {
  const before = await scene.cancelled();
  const aborting = new Ollama({ host: scene.url });
  const stream = await aborting.chat({ ...hello, model: scene.chatterbox, stream: true });
  await assert.rejects(async () => {
    for await (const _ of stream) stream.abort();
  }, { name: "AbortError" });
  await scene.cancellation(before);
});
