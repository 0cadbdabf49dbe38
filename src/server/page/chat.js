// SPDX-License-Identifier: Apache-2.0
'use strict';
// Text of a model or a person only ever becomes text nodes: no part of it is read as HTML.
const at = (id) => document.getElementById(id);
const kSettings = ['temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'seed'];
const kStore = 'nfloat.chats';

let running = null;  // AbortController of the answer that comes
let context = 0;
let editing = -1;  // the message that the text field is to replace, and all that follow it
let chats = load();
let current = chats[0];

function fresh(messages = [], title = 'New chat') {
  return { id: [...crypto.getRandomValues(new Uint32Array(4))].join('-'), title, messages };
}
// Other tabs write there too: what is kept is read again before one chat of it is changed.
function load() {
  try {
    const found = JSON.parse(localStorage.getItem(kStore));
    if (Array.isArray(found) && found.length && found.every((c) => Array.isArray(c.messages))) {
      const whole = found.map((c) => ({ ...fresh(), ...c }));
      if (!found.every((c) => c.id)) keep(whole);
      return whole;
    }
  } catch { /* what is kept there is not ours */ }
  return [fresh()];
}
function keep(list) {
  try {
    localStorage.setItem(kStore, JSON.stringify(list));
  } catch {
    say('This browser keeps no more chats: export or delete some.', true);
  }
}
function save(chat = current) {
  chats = load().filter((c) => c.messages.length || c.id === chat.id);
  const place = chats.findIndex((c) => c.id === chat.id);
  if (place < 0) chats.unshift(chat);
  else chats[place] = chat;
  keep(chats);
}
// Of what comes in pieces only the end is read aloud.
function say(text, error = false) {
  at('status').setAttribute('aria-live', running ? 'off' : 'polite');
  at('status').textContent = text;
  at('status').classList.toggle('error', error);
}
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
function headers() {
  const key = sessionStorage.getItem('nfloat.key');
  return { 'content-type': 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

// The part of Markdown that answers are full of: fenced code, `code`, **bold**.
function formatted(text) {
  const parts = [];
  text.split(/^```/m).forEach((block, i) => {
    if (i % 2) {
      const line = block.indexOf('\n');
      parts.push(element('pre', {}, element('code', { textContent: line < 0 ? '' : block.slice(line + 1) })));
      return;
    }
    if (!block.trim()) return;
    const paragraph = element('p');
    for (const piece of block.replace(/^\s*\n|\s+$/g, '').split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
      if (/^`[^`]+`$/.test(piece)) paragraph.append(element('code', { textContent: piece.slice(1, -1) }));
      else if (/^\*\*[^*]+\*\*$/.test(piece)) paragraph.append(element('strong', { textContent: piece.slice(2, -2) }));
      else paragraph.append(piece);
    }
    parts.push(paragraph);
  });
  return parts;
}

function turnElement(message, index) {
  const turn = element('article', { className: `turn ${message.role === 'user' ? 'user' : 'assistant'}` });
  turn.dataset.index = index;
  turn.append(element('h2', { textContent: message.role === 'user' ? 'You' : message.role }));
  if (message.reasoning_content)
    turn.append(element('p', { className: 'thought', textContent: message.reasoning_content }));
  turn.append(...formatted(String(message.content ?? '')));
  const tools = element('div', { className: 'tools' });
  if (message.role === 'user') tools.append(button('Edit', () => edit(index)));
  // A message whose answer never came, as when the server was busy.
  if (message.role === 'user' && index + 1 === current.messages.length && !running)
    tools.append(button('Send again', () => again(index + 1)));
  if (message.role !== 'user') tools.append(button('Again', () => again(index)));
  tools.append(button('Copy', () => navigator.clipboard?.writeText(String(message.content ?? ''))));
  turn.append(tools);
  return turn;
}
function button(text, action) {
  const made = element('button', { type: 'button', textContent: text });
  made.addEventListener('click', action);
  return made;
}
function show() {
  at('log').replaceChildren(...current.messages.flatMap((m, i) => (m.role === 'system' ? [] : [turnElement(m, i)])));
  at('system').value = current.messages[0]?.role === 'system' ? current.messages[0].content : '';
  at('chats').replaceChildren(...chats.map((chat) => {
    const open = button(chat.title, () => change(chat));
    open.setAttribute('aria-current', String(chat === current));
    const remove = button('×', () => {
      if (running || !confirm(`Delete "${chat.title}"?`)) return;
      chats = load().filter((c) => c.id !== chat.id);
      keep(chats);
      if (!chats.length) chats = [fresh()];
      change(chats.find((c) => c.id === current.id) ?? chats[0]);
    });
    remove.setAttribute('aria-label', `Delete ${chat.title}`);
    return element('li', {}, open, remove);
  }));
  at('log').scrollTop = at('log').scrollHeight;
  meter(current.tokens ?? 0);
}
function change(chat) {
  if (running) return;
  if (editing >= 0) edit(-1);
  current = chat;
  show();
}
// What is edited, and what follows it, stays until the new text is sent.
function edit(index) {
  if (running) return;
  editing = index;
  at('leave').hidden = index < 0;
  at('input').value = index < 0 ? '' : current.messages[index].content;
  document.querySelectorAll('.turn').forEach((turn) => turn.classList.toggle('old', index >= 0 && Number(turn.dataset.index) >= index));
  at('input').focus();
}
function again(index) {
  if (running) return;
  if (editing >= 0) edit(-1);
  current.messages.length = index;
  answer();
}

// Calls take(json) for each event of the stream until [DONE].
async function events(response, take) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error('The connection ended before the answer did.');
    rest += value;
    const blocks = rest.split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      if (!block.startsWith('data: ')) continue;
      if (block === 'data: [DONE]') return;
      const json = JSON.parse(block.slice(6));
      if (json.error) throw new Error(json.error.message);
      take(json);
    }
  }
}
async function refusal(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

async function answer() {
  const chat = current;
  at('spoken').textContent = '';
  const message = { role: 'assistant', content: '' };
  const body = { messages: chat.messages.map(({ role, content }) => ({ role, content })), stream: true, stream_options: { include_usage: true } };
  for (const name of kSettings) if (at(name).value !== '') body[name] = Number(at(name).value);
  if (at('which').value) body.model = at('which').value;
  running = new AbortController();
  show();
  at('send').hidden = true;
  at('stop').hidden = false;
  const begun = performance.now();
  let first = 0, pieces = 0, usage = null, drawn = null, reason = '', end = [''];
  const turn = element('article', { className: 'turn assistant' });
  at('log').append(turn);
  const draw = () => {
    drawn = null;
    const log = at('log'), low = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    const parts = formatted(message.content);
    if (message.reasoning_content) parts.unshift(element('p', { className: 'thought', textContent: message.reasoning_content }));
    turn.replaceChildren(...parts);
    if (low) log.scrollTop = log.scrollHeight;
    const seconds = (performance.now() - first) / 1000;
    if (pieces > 1 && seconds > 0.2) say(`first token after ${((first - begun) / 1000).toFixed(2)} s, ${(pieces / seconds).toFixed(1)} tokens/s`);
  };
  try {
    const response = await fetch('v1/chat/completions', { method: 'POST', headers: headers(), body: JSON.stringify(body), signal: running.signal });
    if (!response.ok) throw new Error(await refusal(response));
    await events(response, (json) => {
      if (json.usage) usage = json.usage;
      const choice = json.choices[0];
      if (!choice) return;
      if (choice.finish_reason) reason = choice.finish_reason;
      if (!choice.delta.content && !choice.delta.reasoning_content) return;
      first ||= performance.now();
      pieces++;
      message.content += choice.delta.content ?? '';
      if (choice.delta.reasoning_content) message.reasoning_content = (message.reasoning_content ?? '') + choice.delta.reasoning_content;
      drawn ??= requestAnimationFrame(draw);
    });
    const seconds = (performance.now() - first) / 1000;
    const cached = usage?.prompt_tokens_details?.cached_tokens ?? 0;
    end = [`${usage.prompt_tokens} tokens read (${cached} known), ${usage.completion_tokens} generated` +
        (seconds > 0 && first ? `, ${(usage.completion_tokens / seconds).toFixed(1)} tokens/s, first after ${((first - begun) / 1000).toFixed(2)} s` : '') +
        (reason === 'length' ? '; cut off by the limit' : '')];
    chat.tokens = usage.total_tokens;
  } catch (error) {
    end = [error.name === 'AbortError' ? 'Stopped.' : error.message, error.name !== 'AbortError'];
  }
  if (drawn !== null) cancelAnimationFrame(drawn);
  running = null;
  say(...end);
  at('spoken').textContent = message.content;
  at('send').hidden = false;
  at('stop').hidden = true;
  if (message.content || message.reasoning_content) chat.messages.push(message);
  save(chat);
  show();
}
function meter(tokens) {
  if (!context) return;
  at('context').value = Math.min(1, tokens / context);
  at('used').textContent = `${tokens} of ${context} tokens of the context`;
}
function send() {
  const text = at('input').value;
  if (running || !text.trim()) return;
  if (editing >= 0) current.messages.length = editing;
  if (editing >= 0) edit(-1);
  if (current.title === 'New chat') current.title = text.trim().slice(0, 40);
  current.messages.push({ role: 'user', content: text });
  at('input').value = '';
  save();
  answer();
}

at('form').addEventListener('submit', (event) => { event.preventDefault(); send(); });
at('input').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  if (running) running.abort();
  else if (editing >= 0) edit(-1);
});
at('leave').addEventListener('click', () => edit(-1));
at('stop').addEventListener('click', () => running?.abort());
at('new').addEventListener('click', () => {
  if (running) return;
  let empty = chats.find((chat) => !chat.messages.length);
  if (!empty) chats.unshift(empty = fresh());
  change(empty);
  at('input').focus();
});
at('system').addEventListener('change', () => {
  if (current.messages[0]?.role === 'system') current.messages.shift();
  if (at('system').value.trim()) current.messages.unshift({ role: 'system', content: at('system').value });
  save();
});
at('key').value = sessionStorage.getItem('nfloat.key') ?? '';
at('key').addEventListener('change', () => { sessionStorage.setItem('nfloat.key', at('key').value); connect(); });
at('export').addEventListener('click', () => {
  const file = new Blob([JSON.stringify({ messages: current.messages }, null, 2)], { type: 'application/json' });
  const link = element('a', { href: URL.createObjectURL(file), download: 'chat.json' });
  link.click();
  URL.revokeObjectURL(link.href);
});
at('import').addEventListener('click', () => at('file').click());
at('file').addEventListener('change', async () => {
  try {
    const { messages } = JSON.parse(await at('file').files[0].text());
    if (!Array.isArray(messages) || !messages.every((m) => typeof m.role === 'string' && typeof m.content === 'string'))
      throw new Error('This file has no list of messages.');
    if (running) throw new Error('Import when the answer has come.');
    const chat = fresh(messages, messages.find((m) => m.role === 'user')?.content.slice(0, 40) ?? 'Imported');
    save(chat);
    change(chat);
  } catch (error) {
    say(error.message, true);
  }
  at('file').value = '';
});
async function connect() {
  try {
    const response = await fetch('v1/models', { headers: headers() });
    if (response.status === 503) { at('model').textContent = 'loading ...'; setTimeout(connect, 1000); return; }
    if (!response.ok) throw new Error(await refusal(response));
    const models = (await response.json()).data, model = models[0];
    at('model').textContent = model.id;
    // With adapters there are several.
    at('which').replaceChildren(...models.map(({ id }) => element('option', { value: id, textContent: id })));
    at('which').parentElement.hidden = models.length < 2;
    context = model.meta.context;
    meter(current.tokens ?? 0);
    say(model.meta.chat_template ? '' : 'This model has no chat template: it can only continue texts, over the API.', !model.meta.chat_template);
  } catch (error) {
    at('model').textContent = 'no connection';
    say(error.message, true);
  }
}
addEventListener('storage', (event) => {
  if (event.key !== kStore || running || editing >= 0) return;
  chats = load();
  change(chats.find((chat) => chat.id === current.id) ?? chats[0]);
});
at('kept').open = innerWidth > 704;  // as the style sheet's
show();
connect();
