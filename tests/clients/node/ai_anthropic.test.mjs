// Vercel's AI SDK over Anthropic's messages.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createAnthropic } from "@ai-sdk/anthropic";
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import * as scene from "./scene.mjs";

// This provider's base URL has the version in it.
const anthropic = createAnthropic({ baseURL: `${scene.url}/anthropic/v1`, apiKey: "none" });
const Stay = z.object({ city: z.string(), days: z.number().int() });
const prompt = "What is the weather in Paris?";

/** Tools that remember what they were asked. */
function weather() {
  const asked = [];
  const get_weather = tool({
    description: "weather of a city", inputSchema: Stay,
    execute: async (wish) => { asked.push(wish); return { sky: "clear" }; },
  });
  return { asked, tools: { get_weather } };
}

test("a text is generated", async () => {
  const { text, finishReason, usage } = await generateText({
    model: anthropic(scene.speaker), prompt, system: "Be brief.", temperature: 0,
  });
  assert.equal(text.trim(), scene.spoken);
  assert.equal(finishReason, "stop");
  assert.ok(usage.outputTokens > 10);
});

test("a text is streamed", async () => {
  const result = streamText({ model: anthropic(scene.speaker), prompt, temperature: 0 });
  const pieces = await scene.gather(result.textStream);
  assert.equal(pieces.join("").trim(), scene.spoken);
  assert.ok(pieces.length > 10);
  assert.ok((await result.usage).outputTokens > 10);
});

test("a tool loop ends with an answer", async () => {
  const { asked, tools } = weather();
  const { text, steps } = await generateText({
    model: anthropic(scene.caller), prompt, tools, temperature: 0, stopWhen: stepCountIs(3),
  });
  assert.equal(text.trim(), scene.toolAnswer);
  assert.equal(steps.length, 2);
  assert.deepEqual(asked, [scene.calledWith]);
});

test("a streamed tool loop ends with an answer", async () => {
  const { asked, tools } = weather();
  const result = streamText({
    model: anthropic(scene.caller), prompt, tools, temperature: 0, stopWhen: stepCountIs(3),
  });
  const parts = await scene.gather(result.fullStream);
  assert.deepEqual(parts.filter((part) => part.type === "error"), []);
  assert.equal((await result.text).trim(), scene.toolAnswer);
  assert.deepEqual(asked, [scene.calledWith]);
});

test("an object is generated from a schema", async () => {
  const { output } = await generateText({
    model: anthropic(scene.jsonSpeaker), prompt, temperature: 0,
    providerOptions: { anthropic: { structuredOutputMode: "outputFormat" } },
    output: Output.object({ schema: Stay }),
  });
  assert.deepEqual(output, scene.calledWith);
});

test("thoughts stand beside the answer", async () => {
  const { text, reasoningText } = await generateText({
    model: anthropic(scene.thinker), prompt,
    providerOptions: { anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } } },
  });
  assert.equal(text.trim(), scene.thoughtfulAnswer);
  assert.equal(reasoningText.trim(), scene.thought);
});

test("an absent model is not found and not asked for again", async () => {
  await assert.rejects(generateText({ model: anthropic(scene.absent), prompt }), (error) => {
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, 404);
    assert.equal(error.isRetryable, false);
    assert.match(error.message, /absent/);
    return true;
  });
});

test("an overflow is a bad request", async () => {
  await assert.rejects(generateText({ model: anthropic(scene.speaker), prompt: scene.tooLong }), (error) => {
    assert.equal(error.statusCode, 400);
    assert.equal(error.data.error.type, "invalid_request_error");
    return true;
  });
});

test("an abort ends the generation", async () => {
  const before = await scene.cancelled();
  const controller = new AbortController();
  const result = streamText({
    model: anthropic(scene.chatterbox), prompt, abortSignal: controller.signal, onError: () => {},
  });
  for await (const _ of result.textStream) { controller.abort(); break; }
  await scene.cancellation(before);
});
