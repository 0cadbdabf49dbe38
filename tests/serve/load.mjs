// SPDX-License-Identifier: Apache-2.0
// node load.mjs PORT SECONDS [ADAPTER...]: many clients of every kind at once, each with its own request after the other; a third of them
// go away in the middle. Ends with 1 when an answer was not one of those that are allowed, or work goes on after the last client.
import net from 'node:net';

const [port, seconds] = process.argv.slice(2, 4).map(Number);
const models = process.argv.slice(4);
const root = `http://127.0.0.1:${port}`;
let state = 12345;
const random = below => (state = (Math.imul(state, 1103515245) + 12345) >>> 0, (state >>> 8) % below);
const pick = list => list[random(list.length)];
const words = 'sea house king morning winter garden letter horse river silver doctor window'.split(' ');
const text = count => Array.from({length: count}, () => pick(words)).join(' ');
const schema = {type: 'object', properties: {name: {type: 'string', maxLength: 20}, age: {type: 'integer'}, kind: {enum: ['a', 'bb', 'ccc']}},
                required: ['name', 'age', 'kind'], additionalProperties: false};
const tool = {type: 'function', function: {name: 'look', parameters: schema}};
const shared = text(200);

const kinds = {
  stream: () => ['/v1/completions', {prompt: text(8), max_tokens: 1 + random(60), stream: true, stream_options: {include_usage: true}}],
  whole: () => ['/v1/completions', {prompt: text(20), max_tokens: 1 + random(30), temperature: 0}],
  shared: () => ['/v1/completions', {prompt: shared + text(3), max_tokens: 20, stream: random(2) === 0}],
  long: () => ['/v1/completions', {prompt: text(300), max_tokens: 2}],
  choices: () => ['/v1/completions', {prompt: text(5), n: 1 + random(4), max_tokens: 20, stream: random(2) === 0, seed: random(99)}],
  prompts: () => ['/v1/completions', {prompt: [text(3), text(9), text(1)], max_tokens: 9}],
  echo: () => ['/v1/completions', {prompt: text(30), echo: true, logprobs: 3, max_tokens: random(3)}],
  repeated: () => ['/v1/completions', {prompt: (text(6) + '. ').repeat(12), max_tokens: 60, temperature: 0, stream: true}],
  chat: () => ['/v1/chat/completions', {messages: [{role: 'user', content: text(9)}], max_tokens: 20, logprobs: true, top_logprobs: 2, stream: true}],
  schema: () => ['/v1/chat/completions', {messages: [{role: 'user', content: text(4)}], max_tokens: 60, stream: random(2) === 0,
                                          response_format: {type: 'json_schema', json_schema: {name: 'x', schema}}}],
  another: () => ['/v1/chat/completions', {messages: [{role: 'user', content: 'x'}], max_tokens: 30,
                                           response_format: {type: 'regex', regex: `(a|b){2,${3 + random(40)}}[0-9]+`}}],
  tools: () => ['/v1/chat/completions', {messages: [{role: 'user', content: text(4)}], max_tokens: 60, stream: random(2) === 0, tools: [tool], tool_choice: 'required'}],
  wrong: () => ['/v1/completions', pick([{prompt: 7}, {prompt: 'a', max_tokens: -1}, {prompt: text(3000)}, {prompt: 'a', response_format: {type: 'regex', regex: '('}}, {}])],
  tokenize: () => ['/tokenize', {content: text(40)}],
  template: () => ['/apply-template', {messages: [{role: 'user', content: text(4)}]}],
  metrics: () => ['/metrics', null],
  health: () => ['/health', null],
  page: () => ['/chat.js', null],
};
const allowed = {wrong: [400], default: [200, 429]};
const seen = {};
let failed = 0;
const kEnough = 10;  // failures

async function one() {
  const kind = pick(Object.keys(kinds)), [path, body] = kinds[kind]();
  if (body && models.length && kind !== 'wrong' && random(3) === 0 && path.startsWith('/v1')) body.model = pick(models);
  const leaves = random(3) === 0, stop = new AbortController();
  if (leaves) setTimeout(() => stop.abort(), random(80));
  try {
    const answer = await fetch(root + path, body ? {method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body), signal: stop.signal}
                                                 : {signal: stop.signal});
    const got = await answer.text();
    const name = `${kind} ${answer.status}`;
    seen[name] = (seen[name] ?? 0) + 1;
    if (!(allowed[kind] ?? allowed.default).includes(answer.status) || (body?.stream && answer.status === 200 && !got.endsWith('data: [DONE]\n\n'))) {
      ++failed;
      console.log(`FAIL  ${name}: ${JSON.stringify(body)?.slice(0, 200)}: ${got.slice(0, 300)} ... ${got.slice(-200)}`);
    }
  } catch (error) {
    if (!leaves) {
      ++failed;
      console.log(`FAIL  ${kind}: ${error} ${error.cause ?? ''}`);
    }
    seen['gone'] = (seen['gone'] ?? 0) + 1;
  }
}
// What no library would do: a request cut at any byte, by a reset or a close.
const cut = () => new Promise(done => {
  const body = JSON.stringify({prompt: text(5), max_tokens: 100, stream: true, ignore_eos: true});
  const bytes = `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const socket = net.connect(port, '127.0.0.1');
  socket.on('error', () => {}).on('close', done);
  socket.on('connect', () => {
    socket.write(bytes.slice(0, 1 + random(bytes.length)));
    setTimeout(() => random(2) ? socket.resetAndDestroy() : socket.destroy(), random(30));
  });
});
const end = Date.now() + seconds * 1000;
await Promise.all([...Array.from({length: 20}, async () => { while (Date.now() < end && failed < kEnough) await one(); }),
                   ...Array.from({length: 4}, async () => { while (Date.now() < end && failed < kEnough) await cut(); })]);
let rest = NaN;
for (let i = 0; i < 1200 && rest !== 0 && failed < kEnough; ++i) {
  await new Promise(yes => setTimeout(yes, 50));
  const metrics = await (await fetch(root + '/metrics')).text();
  rest = ['running', 'waiting'].reduce((sum, name) => sum + Number(new RegExp(`\nnfloat:requests_${name} (\\S+)`).exec(metrics)?.[1]), 0);
}
if (rest !== 0) ++failed;
console.log(`${failed ? 'FAIL' : 'ok  '}  ${Object.values(seen).reduce((a, b) => a + b, 0)} requests of ${Object.keys(kinds).length} kinds; ${rest} at work behind them`);
if (process.env.VERBOSE) console.log(seen);
process.exit(failed ? 1 : 0);
