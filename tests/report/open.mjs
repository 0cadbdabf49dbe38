// SPDX-License-Identifier: Apache-2.0
// node open.mjs CHROMIUM REPORT.html FOLDER: opens the report as a reader would, on wide and
// narrow screens, light and dark, on paper; where the page carries Vega, a second time without it, when its own painters draw.
// Ends with 1 and a line a problem; screenshots go to FOLDER.
import {readFileSync, writeFileSync} from 'node:fs';
import {join, resolve} from 'node:path';

import {Browser} from '../support/browser.mjs';

const [path, report, folder] = process.argv.slice(2);
const problems = [];
const browser = new Browser(path);
const evaluate = body => browser.evaluate(body), press = key => browser.press(key), send = (...call) => browser.send(...call);

// Until every figure is drawn and, after a change of the screen, drawn again.
const settle = `for (let i = 0; i < 100; ++i) {
  await new Promise(r => setTimeout(r, 50));
  if (i > 2 && [...document.querySelectorAll('.plot')].every(p => p.querySelector('svg')?.viewBox.baseVal.width === p.clientWidth)) break;
}
await new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)));`;

// What each figure must have drawn, from the data that the page carries.
const look = by => `${settle}
const found = [], data = JSON.parse(document.getElementById('data').textContent);
const run = data.formats.filter(f => !f.refused), small = run.filter(f => f.bits_per_weight < 6).length;
if (document.documentElement.dataset.drawn !== 'yes') found.push('the script did not reach its end');
if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than the screen: ' + document.documentElement.scrollWidth);
const least = {divergence: small, error: small, histogram: 80, qq: 60, heat: small * run[0].tensors.length, usage: 15, derivation: 16, offset: 3};
for (const [id, marks] of Object.entries(least)) {
  const figure = document.getElementById(id), svg = figure?.querySelector('svg');
  if (!svg) { found.push(id + ': nothing drawn'); continue; }
  const plot = figure.querySelector('.plot');
  if (plot.dataset.by !== '${by}') found.push(id + ': drawn by ' + plot.dataset.by + ', not by ${by}');
  if (svg.viewBox.baseVal.width !== plot.clientWidth) found.push(id + ': drawn for another width');
  const drawn = [...svg.querySelectorAll('circle, rect, path')].filter(e => { const b = e.getBBox(); return b.width + b.height > 0; });
  if (drawn.length < marks) found.push(id + ': ' + drawn.length + ' marks, at least ' + marks + ' expected');
  if (/NaN|Infinity|undefined/.test(svg.outerHTML)) found.push(id + ': a number is missing');
  if (!svg.getAttribute('aria-label')) found.push(id + ': no text alternative');
  if (![...figure.querySelectorAll('button')].some(b => /Download/.test(b.textContent))) found.push(id + ': no data to download');
  const box = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll('text')) {
    if (getComputedStyle(text).opacity === '0') continue;
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

async function visit({by, page}, kind, width, height, dark) {
  const name = by + '-' + kind, complain = text => problems.push(`${name}: ${text}`);
  await browser.open(complain, url => url === page || /^(data|blob):/.test(url));
  await browser.screen(width, height, dark);
  await browser.visit(page);
  (await evaluate(look(by))).forEach(complain);
  await browser.screenshot(join(folder, name + '.png'), true);
  const paper = await evaluate('return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)');
  if (paper[0] < 128 !== dark) complain(`background ${paper}, expected ${dark ? 'dark' : 'light'}`);
  return complain;
}

const note = () => evaluate("return document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent");

async function keyboard(complain) {
  const first = () => evaluate("return document.querySelector('#table tbody td').textContent");
  await evaluate("document.querySelector('#table th button').focus()");
  await press('Enter');
  const up = await first();
  await press('Enter');
  if (up === await first()) complain('Enter on a heading does not sort');
  // Every figure is one stop of Tab; the arrows go on from there.
  const reached = new Set();
  for (let i = 0; i < 150 && reached.size < 8; ++i) {
    await press('Tab');
    const id = await evaluate("return document.activeElement.matches('.mark') ? document.activeElement.closest('figure').id : ''");
    if (!id) continue;
    if (reached.has(id)) complain(id + ': more than one stop of Tab');
    reached.add(id);
    const one = await note();
    await press('ArrowRight');
    const two = await note();
    await press('End');
    const last = await note();
    if (!one || !two || !last || one === two || two === last) complain(`${id}: the notes of the keyboard are "${one}", "${two}", "${last}"`);
    if (await evaluate("return document.activeElement.getAttribute('aria-label')") !== last.replace(/\n/g, ', ')) complain(id + ': the mark is not named as its note is');
  }
  if (reached.size < 8) complain('Tab reaches only the marks of ' + [...reached].join(', '));
  await press('Escape');
  if (await note()) complain('Escape does not close the note');
}

// Ctrl and the wheel enlarge, dragging moves, a double click shows all again.
async function enlarge(complain) {
  await evaluate("document.querySelector('#divergence .plot').scrollIntoView({block: 'center'})");
  const {x, y} = await evaluate(`const box = document.querySelector('#divergence .plot').getBoundingClientRect();
    return {x: box.left + box.width / 2, y: box.top + box.height / 2};`);
  const mouse = (type, more = {}) => send('Input.dispatchMouseEvent', {type, x, y, ...more});
  const drawn = () => evaluate(`${settle}
    return [...document.querySelectorAll('#divergence .mark')].map(m => m.getAttribute('transform')).join()`);
  const whole = await drawn();
  await mouse('mouseWheel', {deltaX: 0, deltaY: -240, modifiers: 2});
  const large = await drawn();
  if (large === whole) complain('Ctrl and the wheel do not enlarge');
  await mouse('mousePressed', {button: 'left', clickCount: 1});
  await mouse('mouseMoved', {x: x + 60, y: y + 40, button: 'left', buttons: 1});
  await mouse('mouseReleased', {x: x + 60, y: y + 40, button: 'left', clickCount: 1});
  if (await drawn() === large) complain('dragging does not move the figure');
  for (const clickCount of [1, 2]) for (const type of ['mousePressed', 'mouseReleased']) await mouse(type, {button: 'left', clickCount});
  if (await drawn() !== whole) complain('a double click does not show all again');
}

async function pointer(complain, by) {
  for (const id of ['divergence', 'heat', 'usage']) {
    const at = await evaluate(`const mark = document.querySelector('#${id} .mark');
      mark.scrollIntoView({block: 'center'});
      const box = mark.getBoundingClientRect();
      return {x: box.left + box.width / 2, y: box.top + box.height / 2};`);
    await send('Input.dispatchMouseEvent', {type: 'mouseMoved', x: 2, y: 2});
    await send('Input.dispatchMouseEvent', {type: 'mouseMoved', ...at});
    if (!await note()) complain(id + ': no note under the pointer');
    // The wheel scrolls the page and leaves the figure as it is.
    const drawn = `return document.querySelector('#${id} svg').innerHTML`, before = await evaluate(drawn), from = await evaluate('return scrollY');
    await send('Input.dispatchMouseEvent', {type: 'mouseWheel', ...at, deltaX: 0, deltaY: 120});
    await evaluate(settle);
    if (await evaluate('return scrollY') === from) complain(id + ': the wheel does not scroll the page');
    if (await evaluate(drawn) !== before) complain(id + ': the wheel changes the figure');
  }
  if (by === 'vega') await enlarge(complain);
  await send('Input.dispatchMouseEvent', {type: 'mouseMoved', x: 2, y: 2});
  if (await note()) complain('the note stays when the pointer has left');
}

async function legend(complain) {
  const faint = `${settle}
    return [...document.querySelectorAll('#divergence .mark')].filter(m => +m.getAttribute('opacity') === .15).length;`;
  const press = "document.querySelector('#divergence .legend button').click();";
  if (await evaluate(faint)) complain('marks are faint before a key of the legend is pressed');
  if (!await evaluate(press + faint)) complain('a key of the legend does not bring its family forward');
  if (!await evaluate("return [...document.querySelectorAll('#divergence text')].some(t => [t.getAttribute('opacity'), t.getAttribute('fill-opacity')].includes('0.15'))"))
    complain('a key of the legend leaves the names of the others as they were');
  if (await evaluate(press + faint)) complain('a key of the legend that is pressed again leaves marks faint');
}

// Presses the button of a figure that has this text; the beginning of the file that it gives.
const saved = (id, text) => evaluate(`let blob;
  const create = URL.createObjectURL;
  URL.createObjectURL = b => { blob = b; return create(b); };
  [...document.querySelectorAll('#${id} button.get')].find(b => b.textContent === '${text}').click();
  for (let i = 0; i < 1200 && !blob; ++i) await new Promise(r => setTimeout(r, 50));
  URL.createObjectURL = create;
  return blob ? blob.text() : '';`);
async function download(complain, by) {
  const lines = (await saved('divergence', 'Download data (CSV)')).trim().split('\n');
  if (lines.length < 3 || lines.some(l => l.split(',').length < 3)) complain('the downloaded data is empty: ' + lines[0].slice(0, 80));
  if (by !== 'vega') return;
  for (const id of ['divergence', 'histogram', 'heat', 'offset']) {
    const svg = await saved(id, 'Save as SVG'), title = await evaluate(`return document.querySelector('#${id} h2').textContent`);
    if (!svg.startsWith('<svg') || !svg.includes(title) || /var\(|NaN/.test(svg)) complain(id + ': the saved SVG is not whole: ' + svg.slice(0, 80));
    writeFileSync(join(folder, id + '.svg'), svg);
    if (!(await saved(id, 'Save as PNG')).includes('PNG')) complain(id + ': the saved PNG is none');
  }
}

// The page follows the screen while it is open.
async function change(complain, by) {
  const colour = `${settle} return document.querySelector('#divergence svg').innerHTML.replace(/aria-\\S+/g, '')`;
  const light = await evaluate(colour);
  await send('Emulation.setEmulatedMedia', {features: [{name: 'prefers-color-scheme', value: 'dark'}]});
  await evaluate('await new Promise(r => setTimeout(r, 300))');
  if (by === 'vega' && await evaluate(colour) === light) complain('the figures keep their colours when the screen turns dark');
  await send('Emulation.setDeviceMetricsOverride', {width: 700, height: 900, deviceScaleFactor: 1, mobile: false});
  (await evaluate(look(by))).forEach(text => complain('at 700 pixels: ' + text));
}

// A dark page is printed light: its figures too.
async function paper(complain) {
  const colours = event => evaluate(`dispatchEvent(new Event('${event}'));
    await new Promise(r => setTimeout(r, 500));
    ${settle}
    const figures = [...document.querySelectorAll('.plot svg')].map(svg => getComputedStyle(svg.querySelector('text')).fill);
    return [...new Set(figures)].join(' and ');`);
  const light = await colours('beforeprint'), dark = await colours('afterprint');
  if (!/^rgb\(88, 100, 115\)$/.test(light)) complain('text of figures on paper is ' + light);
  if (!/^rgb\(159, 171, 184\)$/.test(dark)) complain('text of figures on the dark screen is ' + dark);
}

let status = 1;
try {
  const text = readFileSync(report, 'utf8'), own = join(folder, 'own.html');
  const without = text.replace(/<script data-part="vega">[^]*?<\/script>\n/g, '');
  writeFileSync(own, without);
  const variants = [{by: 'own', page: 'file://' + resolve(own)}];
  if (without === text) console.log('skipped the figures by Vega: this build has none (NFLOAT_VEGA)');
  else variants.push({by: 'vega', page: 'file://' + resolve(report)});
  for (const variant of variants) {
    const complain = await visit(variant, 'wide', 1280, 900, false);
    await keyboard(complain);
    await pointer(complain, variant.by);
    await legend(complain);
    await download(complain, variant.by);
    const {data} = await send('Page.printToPDF', {printBackground: true});
    writeFileSync(join(folder, variant.by + '-print.pdf'), Buffer.from(data, 'base64'));
    if (data.length < 20000) complain('the printed page is empty');
    await change(complain, variant.by);
    await paper(await visit(variant, 'dark', 1280, 900, true));
    await visit(variant, 'narrow', 390, 844, false);
    await visit(variant, 'narrow-dark', 390, 844, true);
  }
  status = problems.length ? 1 : 0;
} catch (error) {
  problems.push(String(error));
} finally {
  await browser.close();
}
for (const line of problems) console.log(line);
process.exit(status);
