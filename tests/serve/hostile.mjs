// SPDX-License-Identifier: Apache-2.0
// node hostile.mjs PORT: requests that a server of nfloat-tiny (with --chat-template) has to refuse, each with the status that it must
// give, one sentence, and the field where there is one; or, where that is said, has to answer. After each it must be well. Ends with 1
// when something else came.
import net from 'node:net';

const port = Number(process.argv[2]);
let count = 0, failed = 0;

// The answer to these bytes: status, headers' text and body; status 0 where the connection just closed, -1 where nothing came in time.
const exchange = (parts, wait = 60000) => new Promise(done => {
  const socket = net.connect(port, '127.0.0.1'), got = [];
  const end = status => {
    clearTimeout(timer);
    const text = Buffer.concat(got).toString('latin1');
    const split = text.indexOf('\r\n\r\n');
    done({status: status ?? (Number(/^HTTP\/1\.[01] (\d+)/.exec(text)?.[1]) || 0), head: text.slice(0, split), body: Buffer.from(text.slice(split + 4), 'latin1').toString()});
  };
  const timer = setTimeout(() => { end(-1); socket.destroy(); }, wait);
  socket.on('data', data => got.push(data));
  socket.on('error', () => {});
  socket.on('close', () => end());
  socket.on('connect', () => { for (const part of [parts].flat()) socket.write(part); });
});
const request = (path, body, {method = 'POST', headers = {}} = {}) => {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
  const lines = Object.entries({Host: 'localhost', 'Content-Type': 'application/json', 'Content-Length': bytes.length, Connection: 'close', ...headers})
    .filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${value}\r\n`);
  return [`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`, bytes];
};
async function expect(what, bytes, statuses, param) {
  ++count;
  const answer = await exchange(bytes);
  const wrong = [];
  if (![statuses].flat().includes(answer.status)) wrong.push(`status ${answer.status}, not ${statuses}`);
  if (answer.status >= 400) {
    try {
      const {error} = JSON.parse(answer.body);
      if (typeof error.message !== 'string' || error.message.length < 10 || error.message.length > 500) wrong.push(`a message of ${error.message?.length} characters`);
      if (Object.keys(error).sort().join() !== 'code,message,param,type') wrong.push(`members ${Object.keys(error)}`);
      if (param !== undefined && error.param !== param) wrong.push(`param ${error.param}, not ${param}`);
    } catch {
      if (!/^HEAD/.test(bytes.toString())) wrong.push('no error object');
    }
  }
  const health = await exchange('GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
  if (health.status !== 200) wrong.push(`/health then has ${health.status}`);
  if (!wrong.length) return;
  ++failed;
  console.log(`FAIL  ${what}: ${wrong.join('; ')}: ${answer.body.slice(0, 300)}`);
}

const messages = [{role: 'user', content: 'The sea'}];
const chat = '/v1/chat/completions', text = '/v1/completions';
const deep = (depth, inside = '1') => '['.repeat(depth) + inside + ']'.repeat(depth);
const schema = (schema, more = {}) => ({messages, max_tokens: 4, response_format: {type: 'json_schema', json_schema: {name: 'x', schema}}, ...more});

// Fields of both endpoints, with values that they must not take.
const bad = {
  temperature: [-1, 2.1, '1', [], {}, true, 1e300],
  top_p: [-0.1, 1.1, 'x', [0.5]],
  min_p: [-0.1, 1.1, false],
  top_k: [-2, 1.5, '40', 1e12],
  repetition_penalty: [0, -1, 101, 'x'],
  presence_penalty: [-2.1, 2.1, 'x'],
  frequency_penalty: [-2.1, 2.1, {}],
  n: [0, -1, 1.5, 9, 1e9, '2', true],
  seed: [1.5, 'x', 1e30, [1]],
  stop: [5, {}, [1], ['a', 'b', 'c', 'd', 'e'], [['a']]],
  max_tokens: [-1, 1.5, '10', 1e20, true],
  max_completion_tokens: [-1, '10', []],
  logit_bias: [[], 'x', {a: 1}, {'-1': 1}, {999999: 1}, {1: 101}, {1: 'x'}, {1: null}, {'1.0': 1}, {'': 1}, {' 1': 1}],
  stream: ['true', 1, []],
  ignore_eos: ['true', 0],
  stream_options: [{}, 'x', {include_usage: true}],
  response_format: ['json', [], {}, {type: 'xml'}, {type: 'json_schema'}, {type: 'json_schema', json_schema: {schema: 5}}, {type: 'regex'}, {type: 'regex', regex: 5}],
  model: [5, 'nope', {}, ['a']],
  guided_json: [{}], guided_regex: ['a'], guided_choice: [['a']], structured_outputs: [{}], audio: [{voice: 'x'}], modalities: [['audio'], 'text'],
};
for (const [field, values] of Object.entries(bad))
  for (const value of values) {
    const status = field === 'model' && typeof value === 'string' ? 404 : 400;
    await expect(`chat ${field} ${JSON.stringify(value)}`, request(chat, {messages, max_tokens: 2, [field]: value}), status, field);
    await expect(`text ${field} ${JSON.stringify(value)}`, request(text, {prompt: 'a', max_tokens: 2, [field]: value}), status, field);
  }
const only_chat = {
  messages: [undefined, null, [], {}, 'x', 5, [1], [null], [{}], [{role: 'user'}], [{role: 5, content: 'a'}], [{role: 'king', content: 'a'}],
             [{role: 'user', content: 5}], [{role: 'user', content: [5]}], [{role: 'user', content: [{type: 'text'}]}], [{role: 'user', content: [{type: 'text', text: 5}]}],
             [{role: 'user', content: [{type: 'image_url', image_url: {url: 'http://localhost:1/x.png'}}]}], [{role: 'user', content: [{type: 'input_audio'}]}],
             [{role: 'user', content: [{type: 'file', file: {file_id: '/etc/passwd'}}]}], [{role: 'user', content: {text: 'a'}}],
             [{role: 'assistant', tool_calls: 5}], [{role: 'assistant', tool_calls: [5]}], [{role: 'assistant', tool_calls: [{}]}], [{role: 'assistant', tool_calls: [{function: {name: 5}}]}],
             [...messages, null], Array(3000).fill(messages[0])],
  logprobs: [1, 'yes'],
  top_logprobs: [3, -1, 21, 'x'],
  tools: [{}, [1], [{}], [{type: 'x'}], [{type: 'function'}], [{type: 'function', function: {}}], [{type: 'function', function: {name: ''}}], [{type: 'function', function: {name: 5}}],
          [{type: 'function', function: {name: 'a', parameters: 5}}]],
  tool_choice: ['always', {}, 5, 'required', {type: 'function', function: {name: 'none'}}, {type: 'function'}],
  parallel_tool_calls: ['yes'],
  chat_template_kwargs: [5, 'x', []],
  functions: [[{name: 'a'}]], function_call: [{name: 'a'}],
};
for (const [field, values] of Object.entries(only_chat))
  for (const value of values)
    await expect(`chat ${field} ${JSON.stringify(value)?.slice(0, 80)}`, request(chat, {messages, max_tokens: 2, [field]: value}), 400, field);
for (const value of [undefined, null, 5, {}, [], [[]], [1, 'a'], ['a', 1], [1.5], [-1], [999999], true, [null], [[1, 'a']], [{}], [1, [2]], 'word '.repeat(3000), ['a', 'word '.repeat(3000)],
                     Array(5000).fill(5), Array(1000).fill('a')])
  await expect(`text prompt ${JSON.stringify(value)?.slice(0, 80)}`, request(text, {prompt: value, max_tokens: 2}), 400, 'prompt');
for (const [field, value] of [['echo', 'x'], ['suffix', 'b'], ['best_of', 3], ['best_of', 0], ['logprobs', 21], ['logprobs', -1], ['logprobs', 'x'], ['logprobs', 1.5]])
  await expect(`text ${field} ${JSON.stringify(value)}`, request(text, {prompt: 'a', max_tokens: 2, [field]: value}), 400, field);

const refused = {
  'a keyword': {type: 'object', properties: {a: {type: 'integer', multipleOf: 3}}}, 'not': {not: {type: 'string'}}, 'oneOf': {oneOf: [{}]}, 'a type': {type: 'date'},
  'a reference to nothing': {$ref: '#/$defs/none'}, 'a reference elsewhere': {$ref: 'http://localhost:1/x.json'}, 'a reference to itself': {$ref: '#'},
  'references in a ring': {$defs: {a: {$ref: '#/$defs/b'}, b: {$ref: '#/$defs/a'}}, $ref: '#/$defs/a'}, 'no value of an enum': {enum: []}, 'an enum of nothing': {enum: 5},
  'items that cannot be': {type: 'array', minItems: 3, maxItems: 2}, 'a length below nothing': {type: 'string', minLength: -1}, 'a length beyond all': {type: 'string', minLength: 1e9},
  'a pattern that is open': {type: 'string', pattern: '('}, 'a pattern that looks ahead': {type: 'string', pattern: '^(?=a)b$'}, 'a pattern that looks back': {type: 'string', pattern: '(a)\\1'},
  'a format': {type: 'string', format: 'hostname'}, 'bounds the wrong way': {type: 'integer', minimum: 5, maximum: 4}, 'properties that are none': {type: 'object', properties: 5},
  'required without properties': {type: 'object', required: 'a'}, 'false': false, 'a recursion without end': {type: 'object', properties: {a: {$ref: '#'}}, required: ['a']},
};
for (const [what, one] of Object.entries(refused)) await expect(`schema: ${what}`, request(chat, schema(one)), 400, 'response_format');
for (const regex of ['(', ')', '[', '[z-a]', 'a{2,1}', '*a', '(?=a)', '(a)\\1', '\\p{Greek', 'a{100000}', '(?<x>a', '\\', 'a**', '(?P<n>a)(?P=n)', '\\u{110000}', '(a|'])
  await expect(`regex ${regex}`, request(text, {prompt: 'a', max_tokens: 2, response_format: {type: 'regex', regex}}), 400, 'response_format');
// Large, and answered or refused, but soon.
const many = count => Object.fromEntries(Array.from({length: count}, (_, i) => [`member${i}`, {type: 'string'}]));
await expect('schema of 5000 members', request(chat, schema({type: 'object', properties: many(5000), required: Object.keys(many(5000))})), [200, 400]);
await expect('schema: enum of 20000', request(chat, schema({enum: Array.from({length: 20000}, (_, i) => `value ${i}`)})), [200, 400]);
await expect('schema of 60 levels', request(chat, `{"messages": ${JSON.stringify(messages)}, "max_tokens": 2, "response_format": {"type": "json_schema", "json_schema": {"schema": ${'{"type":"array","items":'.repeat(55)}{}${'}'.repeat(55)}}}}`), [200, 400]);
await expect('regex of 60 choices repeated', request(text, {prompt: 'a', max_tokens: 4, response_format: {type: 'regex', regex: `(${Array.from({length: 60}, (_, i) => `a{${i + 1}}b?`).join('|')})*c`}}), [200, 400]);
await expect('regex of repetitions of repetitions', request(text, {prompt: 'a', max_tokens: 4, response_format: {type: 'regex', regex: '(((a{99}){99}){99}){99}'}}), [200, 400]);
await expect('stop of a MiB', request(text, {prompt: 'a', max_tokens: 4, stop: 'x'.repeat(1 << 20)}), [200, 400]);
await expect('every token biased', request(text, {prompt: 'a', max_tokens: 4, logit_bias: Object.fromEntries(Array.from({length: 4096}, (_, i) => [i, -100]))}), [200, 400]);
await expect('a million letters', request(text, {prompt: 'x'.repeat(1e6), max_tokens: 4}), 400, 'prompt');
await expect('seven million spaces', request('/tokenize', {content: ' '.repeat(7e6)}), 200);

const body = '{"prompt": "a", "max_tokens": 2}';
for (const [what, bytes] of Object.entries({
  'nothing': '', 'a beginning': '{', 'a list': '[]', 'null': 'null', 'a number': '1', 'a text': '"x"', 'two bodies': body + body, 'a comma': '{"prompt": "a",}', 'single quotes': "{'prompt': 'a'}",
  'NaN': '{"prompt": "a", "temperature": NaN}', 'Infinity': '{"prompt": "a", "temperature": 1e999}', 'a comment': '{"prompt": "a" /* b */}', 'a plus': '{"prompt": "a", "max_tokens": +2}',
  'leading noughts': '{"prompt": "a", "max_tokens": 002}', 'bytes that are no UTF-8': Buffer.concat([Buffer.from('{"prompt": "'), Buffer.from([0xff, 0xfe, 0xc0, 0x80]), Buffer.from('"}')]),
  'an overlong form': Buffer.concat([Buffer.from('{"prompt": "'), Buffer.from([0xc0, 0xaf]), Buffer.from('"}')]), 'a NUL': '{"prompt": "a\0b"}', 'a line break in a text': '{"prompt": "a\nb"}',
  'half a surrogate': '{"prompt": "\\ud800"}', 'an escape that is none': '{"prompt": "\\x41"}', 'UTF-16': Buffer.from(body, 'utf16le'), '65 levels': `{"prompt": "a", "x": ${deep(65)}}`,
  '100000 levels': `{"prompt": "a", "x": ${deep(100000)}}`, '100000 levels that are open': `{"x": ${'['.repeat(100000)}`, '2 million values': `{"prompt": "a", "x": [${'1,'.repeat(2e6)}1]}`,
  'a number of a million digits': `{"prompt": "a", "max_tokens": ${'9'.repeat(1e6)}}`, 'gzip': Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0]),
})) await expect(`a body: ${what}`, request(text, bytes), 400);
await expect('a byte order mark', request(text, '\ufeff' + body), [200, 400]);
await expect('a body of 8 MiB and more', request(text, `{"prompt": "${'a'.repeat(8 << 20)}"}`), 413);

for (const type of [null, 'text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/xml', 'application/jsonp', 'text/json'])
  await expect(`content type ${type}`, request(text, body, {headers: {'Content-Type': type}}), 415);
for (const method of ['GET', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'PROPFIND', 'BREW'])
  await expect(`${method} of completions`, request(text, body, {method}), 405);
for (const path of ['/etc/passwd', '/../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '/v1/models/../../etc/passwd', '/v1', '/v1/', '/v1/chat', '//', '/chat.js/', '/chat.js%00.html', '/V1/models', '/v1/models/nope',
                    '/v1/models/%ff', '/v1/files', '/v1/responses', '/v1/engines', '/api/tags', '/admin', '/slots', '/.git/config', '/v1/models/%', '/' + 'a'.repeat(8000)])
  await expect(`GET ${path.slice(0, 40)}`, request(path, '', {method: 'GET'}), 404);
for (const host of ['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', 'evil.example:80', '10.0.0.1', '0.0.0.0', '[::2]', 'localhost@evil.example', 'evil.example localhost'])
  await expect(`Host ${host}`, request('/health', '', {method: 'GET', headers: {Host: host}}), [400, 403]);
await expect('no Host', request('/health', '', {method: 'GET', headers: {Host: null}}), 400);
const get = 'GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n';
for (const [what, bytes, statuses] of [
  ['two Hosts', `${get}Host: evil.example\r\n\r\n`, 400], ['a target with another host', 'GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', [400, 403, 404]],
  ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', [0, 400, 505]], ['HTTP/9.9', 'GET / HTTP/9.9\r\n\r\n', [0, 400, 505]], ['HTTP/0.9', 'GET /\r\n\r\n', [0, 400]], ['TLS', Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 13, 10, 13, 10]), [0, 400]],
  ['noise', Buffer.from(Array.from({length: 4096}, (_, i) => (i * 7919) & 255)), [0, 400, 431]], ['a NUL in a header', `${get}X: a\0b\r\n\r\n`, [0, 400]], ['a header without a name', `${get}: a\r\n\r\n`, [0, 400]],
  ['a header without a colon', `${get}nothing\r\n\r\n`, [0, 400]], ['2000 headers', `${get}${'X: y\r\n'.repeat(4000)}\r\n`, [0, 431]], ['a length below nothing', `POST ${text} HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n`, 400],
  ['a length with a sign', `POST ${text} HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\n`, 400], ['a length in hexadecimal', `POST ${text} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x5\r\n\r\n`, 400],
  ['a length beyond 64 bits', `POST ${text} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n`, [400, 413]], ['a length of 2^63', `POST ${text} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9223372036854775807\r\n\r\n`, [400, 413]],
  ['a chunk beyond 64 bits', `POST ${text} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n`, [400, 413]],
  ['a chunk of 2^63', `POST ${text} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nx\r\n`, [400, 413]],
  ['a coding that is not known', `POST ${text} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n`, [400, 501]], ['a request line of 20 KiB', `GET /${'a'.repeat(20000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`, [0, 431]],
  ['blanks in the target', 'GET /he alth HTTP/1.1\r\nHost: localhost\r\n\r\n', 400], ['CONNECT', 'CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', [400, 404, 405]],
  ['a WebSocket', `${get.replace('close', 'Upgrade')}Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nConnection: close\r\n\r\n`, [200, 400]],
]) await expect(what, bytes, statuses);
for (const [path, one, field] of [['/tokenize', {}, 'content'], ['/tokenize', {content: 5}, 'content'], ['/tokenize', {content: 'a', add_special: 'x'}, 'add_special'], ['/detokenize', {}, 'tokens'], ['/detokenize', {tokens: 'x'}, 'tokens'],
                                  ['/detokenize', {tokens: [-1]}, 'tokens'], ['/detokenize', {tokens: [1.5]}, 'tokens'], ['/detokenize', {tokens: [999999]}, 'tokens'], ['/detokenize', {tokens: [null]}, 'tokens'], ['/apply-template', {}, 'messages'],
                                  ['/apply-template', {messages: 5}, 'messages'], ['/v1/embeddings', {input: 'a'}, null]])
  await expect(`${path} ${JSON.stringify(one)}`, request(path, one), 400, field);
console.log(`${failed ? 'FAIL' : 'ok  '}  ${count} requests that a server has to refuse: ${failed} answered otherwise`);
process.exit(failed ? 1 : 0);
