// Ollama's Node SDK: lists, details, copies and models made of others.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Ollama } from "ollama";

import * as scene from "./scene.mjs";

const client = new Ollama({ host: scene.url });
const options = { temperature: 0 };

test("models are listed and shown", async () => {
  const { models } = await client.list();
  const [model] = models.filter((one) => one.model === "tiny-script:latest");
  assert.equal(model.digest.length, 64);
  assert.ok(!Number.isNaN(Date.parse(model.modified_at)));
  const shown = await client.show({ model: scene.caller });
  assert.deepEqual([...shown.capabilities].sort(), ["completion", "tools"]);
  assert.equal(shown.model_info["general.architecture"], "llama");
});

test("loaded models are listed", async () => {
  await client.generate({ model: scene.speaker, prompt: "Hello", options });
  const { models } = await client.ps();
  assert.ok(models.some((one) => one.model === "tiny-script:latest"));
});

test("a copy answers and is deleted", async () => {
  await client.copy({ source: scene.speaker, destination: "mine/node-copy" });
  const { response } = await client.generate({ model: "mine/node-copy", prompt: "Hello", options });
  assert.equal(response.trim(), scene.spoken);
  await client.delete({ model: "mine/node-copy" });
  await assert.rejects(client.show({ model: "mine/node-copy" }), /not found/);
});

test("a model is made of another", async () => {
  const lines = await scene.gather(await client.create({
    model: "mine/node-made", from: scene.speaker, parameters: { num_predict: 3 }, stream: true,
  }));
  assert.equal(lines.at(-1).status, "success");
  const { done_reason } = await client.generate({ model: "mine/node-made", prompt: "Hello", options });
  assert.equal(done_reason, "length");
  await client.delete({ model: "mine/node-made" });
});

test("the version is told", async () => {
  assert.match((await client.version()).version, /^\d+\.\d+/);
});
