// SPDX-License-Identifier: Apache-2.0
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const run = data.formats.filter(f => !f.refused);
const best = data.recommendation.format;
const figures = document.getElementById('figures'), tip = document.getElementById('tip');

// ---- elements, numbers
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const short = (x, digits = 3) => x === 0 ? '0' : Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5 ? x.toExponential(digits - 1) : String(+x.toPrecision(digits));
const bytes = b => b >= 1e9 ? (b / 1e9).toFixed(2) + ' GB' : (b / 1e6).toFixed(2) + ' MB';
const range = (n, f) => Array.from({length: n}, (_, i) => f(i));
// The interval of an axis: that of the values and a little more, in the logarithm where log is set.
function padded(values, log) {
  const to = log ? Math.log10 : v => v, back = log ? v => 10 ** v : v => v;
  const low = to(Math.min(...values)), high = to(Math.max(...values)), pad = (high - low || 1) * (log ? .06 : .04);
  return [back(low - pad), back(high + pad)];
}
const family = name => /^(q\d|iq)/.test(name) ? 2 : /^(mx|nv)/.test(name) ? 3 : /^int/.test(name) ? 1 : /^(nf)/.test(name) ? 0 : 4;
const families = ['NormalFloat', 'integers', 'GGUF', 'microscaling', 'other codes'];

// ---- notes on marks: by the pointer, and by the keyboard, where a figure is one stop of Tab and the arrow keys go through its marks
function openTip(box, text) {
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = Math.max(6, Math.min(box.right + 8, innerWidth - tip.offsetWidth - 8)) + 'px';
  tip.style.top = Math.max(6, box.top - tip.offsetHeight - 6) + 'px';
}
const closeTip = () => { tip.hidden = true; };
document.addEventListener('keydown', event => { if (event.key === 'Escape') closeTip(); });
function showTip(element, text) {
  element.setAttribute('tabindex', '-1');
  element.setAttribute('role', 'img');
  element.setAttribute('aria-label', text.replace(/\n/g, ', '));
  element.classList.add('mark');
  element.note = text;
}
// `columns` marks to a row, where they stand in rows: up and down go to the next of them.
function reachMarks(plot, columns) {
  const markOf = event => event.target.closest('.mark');
  const open = event => { const mark = markOf(event); if (mark) openTip(mark.getBoundingClientRect(), mark.note); };
  plot.addEventListener('pointerover', open);
  plot.addEventListener('pointerout', closeTip);
  plot.addEventListener('focusin', event => {
    for (const mark of plot.querySelectorAll('.mark[tabindex="0"]')) mark.setAttribute('tabindex', '-1');
    markOf(event)?.setAttribute('tabindex', '0');
    open(event);
  });
  plot.addEventListener('focusout', closeTip);
  plot.addEventListener('keydown', event => {
    const marks = [...plot.querySelectorAll('.mark')], at = marks.indexOf(markOf(event));
    const to = {ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: marks.length - 1}[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    marks[to]?.focus();
  });
}

// ---- figures: title, caption, drawing that follows its width, data to read and to take along
function table(columns, rows) {
  const head = make('tr', {}, ...columns.map(c => make('th', {scope: 'col'}, c)));
  return make('table', {}, make('thead', {}, head),
    make('tbody', {}, ...rows.map(r => make('tr', {}, ...r.map(v => make('td', {}, typeof v === 'number' ? short(v, 6) : String(v ?? '')))))));
}
function saveBlob(name, blob) {
  const url = URL.createObjectURL(blob);
  make('a', {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
function save(name, columns, rows) {
  const quote = v => /[",\n]/.test(String(v)) ? '"' + String(v).replace(/"/g, '""') + '"' : String(v ?? '');
  saveBlob(name + '.csv', new Blob([[columns, ...rows].map(r => r.map(quote).join(',')).join('\n') + '\n'], {type: 'text/csv'}));
}
function button(text, press) {
  const element = make('button', {class: 'get', type: 'button'}, text);
  element.addEventListener('click', press);
  return element;
}
// The keys of a legend whose third part is a name are buttons: pressing one calls choose(name), or choose('') when it was pressed already.
function legendOf(keys, choose) {
  const buttons = [];
  const parts = keys.map(([text, colour, name]) => {
    const part = make(name ? 'button' : 'span', {style: '--k:' + colour}, text);
    if (!name) return part;
    buttons.push(part);
    part.setAttribute('type', 'button');
    part.setAttribute('aria-pressed', 'false');
    part.setAttribute('title', 'Press to see only these');
    part.addEventListener('click', () => {
      const pressed = part.getAttribute('aria-pressed') !== 'true';
      for (const other of buttons) other.setAttribute('aria-pressed', String(pressed && other === part));
      choose(pressed ? name : '');
    });
    return part;
  });
  return make('div', {class: 'legend'}, ...parts);
}
// What draws: the painters of figures_svg.js, or those of figures_vega.js where the page carries Vega. A painter is {draw, pictures, perhaps choose and hint}.
// draw(plot, figure, width, height) fills `plot`; choose(plot, figure) brings figure.chosen, a key of the legend, forward; pictures(figure,
// width, height) gives the buttons that save the figure as a file; hint(figure) is a sentence for its caption.
const painters = [], darkness = matchMedia('(prefers-color-scheme: dark)');
// On paper a page is light.
addEventListener('beforeprint', () => document.documentElement.classList.add('paper'));
addEventListener('afterprint', () => document.documentElement.classList.remove('paper'));
function figure(f) {
  const plot = make('div', {class: 'plot'}), painter = painters.at(-1), hint = painter.hint?.(f) ?? '';
  const details = make('details', {}, make('summary', {}, 'Data as a table'));
  details.addEventListener('toggle', () => {
    if (details.open) details.replaceChildren(details.firstChild, make('div', {class: 'scroll', tabindex: '0'}, table(f.columns, f.rows())));
  });
  let width = 0;
  const height = () => typeof f.height === 'function' ? f.height(width) : f.height ?? 320;
  const redraw = async () => {
    try {
      await painter.draw(plot, f, width, height());
    } catch (error) {
      console.error(error);
      await painters[0].draw(plot, f, width, height());
    }
    plot.querySelector('.mark')?.setAttribute('tabindex', '0');
  };
  const parts = [make('h2', {id: 't-' + f.id}, f.title), make('figcaption', {}, f.caption, make('span', {class: 'hint'}, hint && ' ' + hint)), ...(f.controls ? [f.controls] : []), plot];
  if (f.legend) parts.push(legendOf(f.legend, name => { f.chosen = name; painter.choose ? painter.choose(plot, f) : redraw(); }));
  const buttons = [button('Download data (CSV)', () => save('nfloat-' + f.id, f.columns, f.rows())), ...painter.pictures(f, () => width, height)];
  figures.append(make('figure', {id: f.id, class: f.wide ? 'wide' : '', 'aria-labelledby': 't-' + f.id}, ...parts, ...buttons, details));
  reachMarks(plot, f.inRow ?? 1);
  new ResizeObserver(() => {
    if (Math.abs(plot.clientWidth - width) < 1 || plot.clientWidth === 0) return;
    width = plot.clientWidth;
    requestAnimationFrame(redraw);
  }).observe(plot);
  const again = () => { if (width) redraw(); };
  darkness.addEventListener('change', again);
  addEventListener('beforeprint', again);
  addEventListener('afterprint', again);
  return redraw;
}

// ---- the page
document.getElementById('subtitle').textContent =
  `${data.model}: ${run.length} formats on ${data.tokens.toLocaleString('en')} tokens of ${data.text}; protocol ${data.protocol}, windows of ${data.context} tokens, ${data.precision} arithmetic${(data.adapters ?? []).map(a => `; with ${a.adapter}${a.weight === 1 ? '' : ' times ' + a.weight} beside the weights`).join('')}.`;
document.getElementById('made').textContent =
  `Made by nfloat compare in ${Math.round(data.seconds)} s. This file holds all its data and loads nothing.`;
for (const text of data.findings) document.getElementById('answer').append(make('p', {}, text));

(function results() {
  const columns = [
    ['format', f => f.name], ['bits/weight', f => f.bits_per_weight, v => v.toFixed(3)], ['model', f => f.model_bytes, bytes],
    ['SQNR dB', f => f.sqnr_db, v => v.toFixed(2)],
    ['zeros kept', f => f.zeros ? f.zeros_kept / f.zeros : -1, v => v < 0 ? 'none there' : (100 * v).toFixed(1) + ' %'],
    ['perplexity', f => f.perplexity.perplexity, v => v.toFixed(3)], ['mean KL', f => f.divergence.mean_kl, v => short(v)],
    ['±', f => f.divergence.mean_kl_standard_error, v => short(v, 2)], ['99 % KL', f => f.divergence.kl_99, v => short(v)],
    ['max KL', f => f.divergence.max_kl, v => short(v)], ['same top', f => f.divergence.same_top, v => (100 * v).toFixed(2) + ' %'],
    ['coding Mw/s', f => f.weights / f.coding_seconds / 1e6, v => v.toFixed(0)],
    ['tokens/s', f => f.tokens_per_second, v => v > 0 ? v.toFixed(0) : '–']];
  const body = make('tbody'), heads = [];
  let sorted = 6, up = true;
  const fill = () => {
    const key = columns[sorted][1];
    const rows = [...run].sort((p, q) => (key(p) < key(q) ? -1 : key(p) > key(q) ? 1 : 0) * (up ? 1 : -1));
    body.replaceChildren(...rows.map(f => make('tr', {class: f.name === best ? 'best' : '', title: f.summary},
      ...columns.map(([, get, text], i) => make('td', {class: i === 0 && f.pareto ? 'front' : ''}, text ? text(get(f)) : get(f))))));
    heads.forEach((h, i) => h.setAttribute('aria-sort', i !== sorted ? 'none' : up ? 'ascending' : 'descending'));
  };
  columns.forEach(([name], i) => {
    const head = make('button', {type: 'button'}, name);
    head.addEventListener('click', () => { up = sorted === i ? !up : true; sorted = i; fill(); });
    heads.push(make('th', {scope: 'col'}, head));
  });
  const get = button('Download data (CSV)', () => save('nfloat-formats', columns.map(c => c[0]), run.map(f => columns.map(c => c[1](f)))));
  figures.append(make('figure', {id: 'table', class: 'wide'}, make('h2', {}, 'The formats'),
    make('figcaption', {}, `★ on the Pareto front: no format is as small with less divergence. Plain model: ${bytes(data.plain_bytes)}, perplexity ${data.plain.perplexity.toFixed(3)}. – : nfloat has no kernel that runs the format directly. Press a heading to sort.`),
    make('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Table of formats'}, make('table', {}, make('thead', {}, make('tr', {}, ...heads)), body)), get));
  fill();
})();

(function tasks() {
  if (data.plain_tasks.length === 0) return;
  const columns = ['format', ...data.plain_tasks.flatMap(t => [t.task, '± ' + t.task])];
  const row = (name, results) => [name, ...results.flatMap(t => [+(100 * t.accuracy).toFixed(2), +(100 * t.accuracy_standard_error).toFixed(2)])];
  const rows = [row('plain', data.plain_tasks), ...run.map(f => row(f.name, f.tasks))];
  const get = button('Download data (CSV)', () => save('nfloat-tasks', columns, rows));
  const chance = data.plain_tasks.map(t => `${t.task} ${(100 * t.chance).toFixed(1)} % on ${t.questions} questions`).join(', ');
  figures.append(make('figure', {id: 'tasks', class: 'wide'}, make('h2', {}, 'Tests with known answers: accuracy, per cent'),
    make('figcaption', {}, `By guessing: ${chance}.`),
    make('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Table of accuracies'}, table(columns, rows)), get));
})();

