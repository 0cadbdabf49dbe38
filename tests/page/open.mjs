// SPDX-License-Identifier: Apache-2.0
// node open.mjs CHROMIUM ADDRESS: uses the page of `nfloat serve` as a person would, through the browser's own protocol. Ends with
// 1 and a line a problem.
import {spawn} from 'node:child_process';
import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

const [browser, address] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), 'nfloat-page-'));
const chrome = spawn(browser, ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
  '--remote-debugging-pipe', '--user-data-dir=' + profile],
{stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'], env: {...process.env, HOME: profile}});
const problems = [], pending = new Map();
let next = 0, rest = '', session = '';
chrome.stdio[4].on('data', chunk => {
  rest += chunk;
  for (let end; (end = rest.indexOf('\0')) >= 0; rest = rest.slice(end + 1)) {
    const message = JSON.parse(rest.slice(0, end));
    if (message.id === undefined) {
      if (message.method === 'Runtime.exceptionThrown') problems.push('exception: ' + JSON.stringify(message.params).slice(0, 300));
      if (message.method === 'Runtime.consoleAPICalled' || (message.method === 'Log.entryAdded' && message.params.entry.level === 'error'))
        problems.push('console: ' + JSON.stringify(message.params).slice(0, 300));
      if (message.method === 'Network.requestWillBeSent' && !message.params.request.url.startsWith(address) && !message.params.request.url.startsWith('data:'))
        problems.push('a request to ' + message.params.request.url);
      continue;
    }
    const {yes, no} = pending.get(message.id);
    pending.delete(message.id);
    message.error ? no(new Error(message.error.message)) : yes(message.result);
  }
});
const send = (method, params = {}) => new Promise((yes, no) => {
  pending.set(++next, {yes, no});
  chrome.stdio[3].write(JSON.stringify({id: next, method, params, ...(session ? {sessionId: session} : {})}) + '\0');
});
async function evaluate(body) {
  const {result, exceptionDetails} = await send('Runtime.evaluate', {expression: `(async () => {${body}})()`, awaitPromise: true, returnByValue: true});
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}
async function until(what, body) {
  for (let i = 0; i < 200; ++i) {
    if (await evaluate(`return (${body});`)) return;
    await new Promise(r => setTimeout(r, 50));
  }
  problems.push('never: ' + what);
}
async function press(key) {
  const text = key === 'Enter' ? '\r' : undefined, code = {Enter: 13, Escape: 27}[key];
  for (const type of ['keyDown', 'keyUp']) await send('Input.dispatchKeyEvent', {type, key, code: key, text, windowsVirtualKeyCode: code});
}
const hostile = ['<img src=x onerror="window.hacked = 1">', '<script>window.hacked = 1</script>', '[x](javascript:window.hacked=1)',
  '```\n</code></pre><svg onload=window.hacked=1>\n```', '**<b onclick=x>**', '`<iframe>`', '\u202e\u2066reversed', '</article><form action=//evil>'];
try {
  const {targetId} = await send('Target.createTarget', {url: 'about:blank'});
  session = (await send('Target.attachToTarget', {targetId, flatten: true})).sessionId;
  for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await send(domain + '.enable');
  for (const [width, scheme] of [[1280, 'light'], [390, 'dark']]) {
    await send('Emulation.setDeviceMetricsOverride', {width, height: 800, deviceScaleFactor: 1, mobile: width < 500});
    await send('Emulation.setEmulatedMedia', {features: [{name: 'prefers-color-scheme', value: scheme}]});
    await send('Page.navigate', {url: address});
    await until('the name of the model', `document.getElementById('model')?.textContent === 'nfloat-tiny'`);
    if (await evaluate(`return document.documentElement.scrollWidth > innerWidth;`)) problems.push(`${width}: wider than the screen`);
    await evaluate(`document.getElementById('new').click(); document.getElementById('max_tokens').value = 30; document.getElementById('input').focus();`);
    await send('Input.insertText', {text: 'Tell me about the sea.'});
    await press('Enter');
    await until('an answer', `document.querySelectorAll('.turn.assistant .tools').length === 1 && /30 generated/.test(document.getElementById('status').textContent)`);
    await evaluate(`document.getElementById('max_tokens').value = 400;
      [...document.querySelectorAll('.turn.assistant button')].find(b => b.textContent === 'Again').click();`);
    await until('a first piece', `document.querySelector('.turn.assistant p')`);
    await press('Escape');
    await until('the stop', `document.getElementById('stop').hidden && document.querySelectorAll('.turn.assistant').length === 1`);
    await until('a server at rest', `/requests_running 0\\n/.test(await (await fetch('metrics')).text())`);
    await evaluate(`localStorage.setItem('nfloat.chats', ${JSON.stringify(JSON.stringify([{title: hostile[0], messages: hostile.flatMap(content => [{role: 'user', content}, {role: 'assistant', content}])}]))});`);
    await send('Page.reload');
    await until('the kept chat', `document.querySelectorAll('.turn').length === ${hostile.length * 2}`);
    if (await evaluate(`return window.hacked || document.querySelector('#log :is(img, script, svg, iframe, form, a, b), #chats img') !== null;`))
      problems.push('hostile text became more than text');
    await evaluate(`localStorage.clear();`);
  }
} catch (error) {
  problems.push(String(error));
}
const gone = new Promise(yes => chrome.once('exit', yes));
chrome.kill();
await gone;
// Its own processes may write for a moment longer.
rmSync(profile, {recursive: true, force: true, maxRetries: 20, retryDelay: 200});
problems.forEach(problem => console.log(problem));
process.exit(problems.length ? 1 : 0);
