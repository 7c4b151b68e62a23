// Vercel's AI SDK over OpenAI's chats, with the provider for compatible servers and OpenAI's own.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import * as scene from "./scene.mjs";

const compatible = createOpenAICompatible({
  name: "model-runner", baseURL: `${scene.url}/v1`, includeUsage: true, supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL: `${scene.url}/v1`, apiKey: "none" });
const Stay = z.object({ city: z.string(), days: z.number().int() });
const prompt = "What is the weather in Paris?";

const makers = { compatible: (name) => compatible(name), openai: (name) => openai.chat(name) };

/** Do the same with each provider. */
async function each(check) {
  for (const [name, make] of Object.entries(makers)) {
    try {
      await check(make);
    } catch (error) {
      throw new Error(`with the provider ${name}`, { cause: error });
    }
  }
}

/** Tools that remember what they were asked. */
function weather() {
  const asked = [];
  const get_weather = tool({
    description: "weather of a city", inputSchema: Stay,
    execute: async (wish) => { asked.push(wish); return { sky: "clear" }; },
  });
  return { asked, tools: { get_weather } };
}

test("a text is generated", () => each(async (make) => {
  const { text, finishReason, usage } = await generateText({ model: make(scene.speaker), prompt, temperature: 0 });
  assert.equal(text.trim(), scene.spoken);
  assert.equal(finishReason, "stop");
  assert.ok(usage.outputTokens > 10);
}));

test("a text is streamed", () => each(async (make) => {
  const result = streamText({ model: make(scene.speaker), prompt, temperature: 0 });
  const pieces = await scene.gather(result.textStream);
  assert.equal(pieces.join("").trim(), scene.spoken);
  assert.ok(pieces.length > 10);
  assert.ok((await result.usage).outputTokens > 10);
  assert.equal(await result.finishReason, "stop");
}));

test("a tool loop ends with an answer", () => each(async (make) => {
  const { asked, tools } = weather();
  const { text, steps } = await generateText({
    model: make(scene.caller), prompt, tools, temperature: 0, stopWhen: stepCountIs(3),
  });
  assert.equal(text.trim(), scene.toolAnswer);
  assert.equal(steps.length, 2);
  assert.deepEqual(asked, [scene.calledWith]);
}));

test("a streamed tool loop ends with an answer", () => each(async (make) => {
  const { asked, tools } = weather();
  const result = streamText({
    model: make(scene.caller), prompt, tools, temperature: 0, stopWhen: stepCountIs(3),
  });
  const parts = await scene.gather(result.fullStream);
  assert.deepEqual(parts.filter((part) => part.type === "error"), []);
  assert.equal((await result.text).trim(), scene.toolAnswer);
  assert.deepEqual(asked, [scene.calledWith]);
}));

test("an object is generated from a schema", () => each(async (make) => {
  const { output } = await generateText({
    model: make(scene.jsonSpeaker), prompt, temperature: 0, output: Output.object({ schema: Stay }),
  });
  assert.deepEqual(output, scene.calledWith);
}));

test("thoughts stand beside the answer", async () => {
  const { text, reasoningText } = await generateText({ model: compatible(scene.thinker), prompt, temperature: 0 });
  assert.equal(text.trim(), scene.thoughtfulAnswer);
  assert.equal(reasoningText.trim(), scene.thought);
});

test("texts are embedded", async () => {
  for (const model of [compatible.embeddingModel(scene.encoder), openai.embedding(scene.encoder)]) {
    const { embeddings } = await embedMany({ model, values: ["the", "of"] });
    assert.deepEqual(embeddings.map((one) => one.length), [64, 64]);
  }
});

test("an absent model is not found and not asked for again", () => each(async (make) => {
  await assert.rejects(generateText({ model: make(scene.absent), prompt }), (error) => {
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, 404);
    assert.equal(error.isRetryable, false);
    assert.match(error.message, /absent/);
    return true;
  });
}));

test("an overflow is a bad request", () => each(async (make) => {
  await assert.rejects(generateText({ model: make(scene.speaker), prompt: scene.tooLong }), (error) => {
    assert.equal(error.statusCode, 400);
    return true;
  });
}));

test("an abort ends the generation", () => each(async (make) => {
  const before = await scene.cancelled();
  const controller = new AbortController();
  const result = streamText({
    model: make(scene.chatterbox), prompt, abortSignal: controller.signal, onError: () => {},
  });
  for await (const _ of result.textStream) { controller.abort(); break; }
  await scene.cancellation(before);
}));
