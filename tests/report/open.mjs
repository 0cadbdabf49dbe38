// SPDX-License-Identifier: Apache-2.0
// node open.mjs CHROMIUM REPORT.html FOLDER: opens the report as a reader would, through the browser's own protocol, on wide and
// narrow screens, light and dark, on paper. Ends with 1 and a line a problem; screenshots go to FOLDER.
import {spawn} from 'node:child_process';
import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';

const [browser, report, folder] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), 'nfloat-report-'));
const chrome = spawn(browser, ['--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--no-first-run',
  '--disable-background-networking', '--remote-debugging-pipe', '--user-data-dir=' + profile],
{stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'], env: {...process.env, HOME: profile}});
const problems = [];
const pending = new Map();
let next = 0, rest = '', session = '', listener = () => {};
chrome.stdio[4].on('data', chunk => {
  rest += chunk;
  for (let end; (end = rest.indexOf('\0')) >= 0; rest = rest.slice(end + 1)) {
    const message = JSON.parse(rest.slice(0, end));
    if (message.id === undefined) { listener(message.method, message.params); continue; }
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
  const {result, exceptionDetails} = await send('Runtime.evaluate',
    {expression: `(async () => {${body}})()`, awaitPromise: true, returnByValue: true});
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}
async function press(key) {
  const text = key === 'Enter' ? '\r' : undefined, code = {Tab: 9, Enter: 13, Escape: 27}[key];
  for (const type of ['keyDown', 'keyUp']) await send('Input.dispatchKeyEvent', {type, key, code: key, text, windowsVirtualKeyCode: code});
}
const settle = 'await new Promise(r => setTimeout(r, 150)); await new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)));';

// What each figure must have drawn, from the data that the page carries.
const look = `${settle}
const found = [], data = JSON.parse(document.getElementById('data').textContent);
const run = data.formats.filter(f => !f.refused), small = run.filter(f => f.bits_per_weight < 6).length;
if (document.documentElement.dataset.drawn !== 'yes') found.push('the script did not reach its end');
if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than the screen: ' + document.documentElement.scrollWidth);
const least = {divergence: small, error: small, histogram: 80, qq: 60, heat: small * run[0].tensors.length, usage: 15, derivation: 16, offset: 3};
for (const [id, marks] of Object.entries(least)) {
  const figure = document.getElementById(id), svg = figure?.querySelector('svg');
  if (!svg) { found.push(id + ': nothing drawn'); continue; }
  const drawn = [...svg.querySelectorAll('circle, rect, path')].filter(e => { const b = e.getBBox(); return b.width + b.height > 0; });
  if (drawn.length < marks) found.push(id + ': ' + drawn.length + ' marks, at least ' + marks + ' expected');
  if (/NaN|Infinity|undefined/.test(svg.outerHTML)) found.push(id + ': a number is missing');
  if (!svg.getAttribute('aria-label')) found.push(id + ': no text alternative');
  if (![...figure.querySelectorAll('button')].some(b => /Download/.test(b.textContent))) found.push(id + ': no data to download');
  const box = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll('text')) {
    const t = text.getBoundingClientRect();
    if (t.left < box.left - 16 || t.right > box.right + 16) found.push(id + ': "' + text.textContent + '" is cut off');
  }
  const details = figure.querySelector('details');
  details.open = true;
  await new Promise(r => setTimeout(r, 20));
  if (details.querySelectorAll('td').length < 4) found.push(id + ': no table of its data');
  details.open = false;
}
if (document.querySelectorAll('#table tbody tr').length !== run.length) found.push('the table has not one row a format');
if (!document.querySelector('#answer p')) found.push('no recommendation');
return found;`;

async function visit(name, width, height, dark) {
  const complain = text => problems.push(`${name}: ${text}`);
  session = '';
  const {targetId} = await send('Target.createTarget', {url: 'about:blank'});
  const {sessionId} = await send('Target.attachToTarget', {targetId, flatten: true});
  session = sessionId;
  const page = 'file://' + resolve(report);
  let loaded;
  const load = new Promise(r => { loaded = r; });
  listener = (method, params) => {
    if (method === 'Page.loadEventFired') loaded();
    if (method === 'Runtime.consoleAPICalled') complain(`console.${params.type}: ${JSON.stringify(params.args.map(a => a.value ?? a.description))}`);
    if (method === 'Runtime.exceptionThrown') complain('exception: ' + (params.exceptionDetails.exception?.description ?? params.exceptionDetails.text));
    if (method === 'Log.entryAdded') complain(`log: ${params.entry.text}`);
    if (method === 'Network.requestWillBeSent' && params.request.url !== page && !/^(data|blob):/.test(params.request.url))
      complain('a request: ' + params.request.url);
  };
  for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await send(domain + '.enable');
  await send('Emulation.setDeviceMetricsOverride', {width, height, deviceScaleFactor: 1, mobile: width < 500});
  await send('Emulation.setEmulatedMedia', {features: [{name: 'prefers-color-scheme', value: dark ? 'dark' : 'light'}]});
  await send('Page.navigate', {url: page});
  await load;
  (await evaluate(look)).forEach(complain);
  const shot = await send('Page.captureScreenshot', {format: 'png', captureBeyondViewport: true});
  writeFileSync(join(folder, name + '.png'), Buffer.from(shot.data, 'base64'));
  const paper = await evaluate('return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)');
  if (paper[0] < 128 !== dark) complain(`background ${paper}, expected ${dark ? 'dark' : 'light'}`);
  return complain;
}

async function keyboard(complain) {
  const first = () => evaluate("return document.querySelector('#table tbody td').textContent");
  await evaluate("document.querySelector('#table th button').focus()");
  await press('Enter');
  const up = await first();
  await press('Enter');
  if (up === await first()) complain('Enter on a heading does not sort');
  let tip = '';
  for (let i = 0; i < 60 && !tip; ++i) {
    await press('Tab');
    tip = await evaluate("return document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent");
  }
  if (!tip) complain('no mark can be reached with Tab');
  await press('Escape');
  if (!await evaluate("return document.getElementById('tip').hidden")) complain('Escape does not close the note');
}

async function download(complain) {
  const text = await evaluate(`let saved;
    const create = URL.createObjectURL;
    URL.createObjectURL = blob => { saved = blob; return create(blob); };
    document.querySelector('#divergence button.get').click();
    return saved ? saved.text() : '';`);
  const lines = text.trim().split('\n');
  if (lines.length < 3 || lines.some(l => l.split(',').length < 3)) complain('the downloaded data is empty: ' + text.slice(0, 80));
}

let status = 1;
try {
  let complain = await visit('wide', 1280, 900, false);
  await keyboard(complain);
  await download(complain);
  const {data} = await send('Page.printToPDF', {printBackground: true});
  writeFileSync(join(folder, 'print.pdf'), Buffer.from(data, 'base64'));
  if (data.length < 20000) complain('the printed page is empty');
  await visit('dark', 1280, 900, true);
  await visit('narrow', 390, 844, false);
  await visit('narrow-dark', 390, 844, true);
  status = problems.length ? 1 : 0;
} catch (error) {
  problems.push(String(error));
} finally {
  chrome.kill();
  try { rmSync(profile, {recursive: true, force: true, maxRetries: 5, retryDelay: 100}); } catch { /* the browser still writes */ }
}
for (const line of problems) console.log(line);
process.exit(status);
