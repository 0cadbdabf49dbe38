// SPDX-License-Identifier: Apache-2.0
// node open.mjs CHROMIUM ADDRESS [FOLDER]: uses the page of `nfloat serve` as a person would. Ends with 1 and a line a problem;
// screenshots go to FOLDER.
import {join} from 'node:path';

import {Browser} from '../support/browser.mjs';

const [path, address, folder] = process.argv.slice(2);
const problems = [];
const browser = new Browser(path);
const evaluate = body => browser.evaluate(body), press = key => browser.press(key), send = (...call) => browser.send(...call);
async function until(what, body) {
  let trouble = '';
  for (let i = 0; i < 1200; ++i) {
    // What is asked while the page is loaded again gets no answer.
    if (await evaluate(`return (${body});`).catch(error => { trouble = ` (${error})`; })) return;
    await new Promise(r => setTimeout(r, 50));
  }
  problems.push('never: ' + what + trouble);
}
const hostile = ['<img src=x onerror="window.hacked = 1">', '<script>window.hacked = 1</script>', '[x](javascript:window.hacked=1)',
  '```\n</code></pre><svg onload=window.hacked=1>\n```', '**<b onclick=x>**', '`<iframe>`', '\u202e\u2066reversed', '</article><form action=//evil>'];
try {
  await browser.open(text => problems.push(text), url => url.startsWith(address) || url.startsWith('data:'));
  for (const [width, scheme] of [[1280, 'light'], [1280, 'dark'], [390, 'light'], [390, 'dark']]) {
    await browser.screen(width, 800, scheme === 'dark');
    await browser.visit(address);
    await until('the name of the model', `document.getElementById('model')?.textContent === 'nfloat-tiny'`);
    if (await evaluate(`return document.documentElement.scrollWidth > innerWidth;`)) problems.push(`${width}: wider than the screen`);
    await evaluate(`document.getElementById('new').click(); document.getElementById('max_tokens').value = 30; document.getElementById('input').focus();`);
    await send('Input.insertText', {text: 'Tell me about the sea.'});
    await press('Enter');
    await until('an answer', `document.querySelectorAll('.turn.assistant .tools').length === 1 && /30 generated/.test(document.getElementById('status').textContent)`);
    if (folder) await browser.screenshot(join(folder, `page-${width}-${scheme}.png`));
    await evaluate(`document.getElementById('max_tokens').value = 400;
      [...document.querySelectorAll('.turn.assistant button')].find(b => b.textContent === 'Again').click();`);
    await until('a first piece', `document.querySelector('.turn.assistant p')`);
    await press('Escape');
    await until('the stop', `document.getElementById('stop').hidden && document.querySelectorAll('.turn.assistant').length === 1`);
    await until('a server at rest', `/requests_running 0\\n/.test(await (await fetch('metrics')).text())`);
    // What is edited stays until the new text is sent; another tab's chats are not overwritten.
    await evaluate(`[...document.querySelectorAll('.turn.user button')].find(b => b.textContent === 'Edit').click();`);
    await press('Escape');
    await until('the end of an edit', `document.querySelectorAll('.turn').length === 2 && !document.querySelector('.turn.old')`);
    await evaluate(`const kept = JSON.parse(localStorage.getItem('nfloat.chats'));
      localStorage.setItem('nfloat.chats', JSON.stringify([{id: 'other', title: 'Of another tab', messages: [{role: 'user', content: 'x'}]}, ...kept]));
      document.getElementById('max_tokens').value = 3;
      [...document.querySelectorAll('.turn.user button')].find(b => b.textContent === 'Edit').click();
      document.getElementById('input').value = 'And the land?'; document.getElementById('send').click();`);
    await until('the answer to what was edited', `/3 generated/.test(document.getElementById('status').textContent)`);
    await until('one question, edited', `[...document.querySelectorAll('.turn.user p')].map(p => p.textContent).join() === 'And the land?'`);
    await until('the chat of another tab', `JSON.parse(localStorage.getItem('nfloat.chats')).length === 2 && document.querySelectorAll('#chats li').length === 2`);
    await until('the answer to be read aloud once', `document.getElementById('spoken').textContent.length > 0 && document.getElementById('log').getAttribute('aria-live') === 'off'`);
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
await browser.close();
problems.forEach(problem => console.log(problem));
process.exit(problems.length ? 1 : 0);
