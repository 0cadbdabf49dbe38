// SPDX-License-Identifier: Apache-2.0
// Talks with `nfloat serve MODEL` by the official client (npm install openai): node openai_client.mjs [ADDRESS].
import OpenAI from 'openai';

const client = new OpenAI({baseURL: (process.argv[2] ?? 'http://127.0.0.1:8080') + '/v1', apiKey: process.env.NFLOAT_API_KEY ?? 'none'});
const model = (await client.models.list()).data[0].id;
const stream = await client.chat.completions.create({
  model, messages: [{role: 'user', content: 'Name three rivers.'}], max_tokens: 60, stream: true, stream_options: {include_usage: true},
});
for await (const piece of stream) {
  process.stdout.write(piece.choices[0]?.delta.content ?? '');
  if (piece.usage) console.log(`\n${piece.usage.completion_tokens} tokens`);
}
