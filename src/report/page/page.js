// SPDX-License-Identifier: Apache-2.0
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const run = data.formats.filter(f => !f.refused);
const best = data.recommendation.format;
const figures = document.getElementById('figures'), tip = document.getElementById('tip');

// ---- elements, numbers, scales
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function draw(parent, name, attributes = {}, text) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
const short = (x, digits = 3) => x === 0 ? '0' : Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5 ? x.toExponential(digits - 1) : String(+x.toPrecision(digits));
const bytes = b => b >= 1e9 ? (b / 1e9).toFixed(2) + ' GB' : (b / 1e6).toFixed(2) + ' MB';
const range = (n, f) => Array.from({length: n}, (_, i) => f(i));
const family = name => /^(q\d|iq)/.test(name) ? 2 : /^(mx|nv)/.test(name) ? 3 : /^int/.test(name) ? 1 : /^(nf)/.test(name) ? 0 : 4;
const families = ['NormalFloat', 'integers', 'GGUF', 'microscaling', 'other codes'];

function scale(values, from, to, log) {
  let low = Math.min(...values), high = Math.max(...values);
  if (log) { low = Math.log10(low); high = Math.log10(high); }
  const pad = (high - low || 1) * (log ? 0.06 : 0.04);
  low -= pad; high += pad;
  const at = v => from + ((log ? Math.log10(v) : v) - low) / (high - low) * (to - from);
  at.ticks = [];
  if (log) {
    const steps = high - low > 2.5 ? [1] : high - low > 1.6 ? [1, 3] : [1, 2, 5];
    for (let e = Math.floor(low); e <= high; ++e) for (const m of steps) {
      const v = m * 10 ** e;
      if (Math.log10(v) >= low && Math.log10(v) <= high) at.ticks.push(v);
    }
  } else {
    const rough = (high - low) / Math.max(3, Math.abs(to - from) / 70), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(s => s >= rough);
    for (let v = Math.ceil(low / step); v * step <= high; ++v) at.ticks.push(+(v * step).toPrecision(12));
  }
  return at;
}

function showTip(element, text) {
  element.setAttribute('tabindex', '0');
  element.setAttribute('role', 'img');
  element.setAttribute('aria-label', text.replace(/\n/g, ', '));
  element.classList.add('mark');
  const show = () => {
    const box = element.getBoundingClientRect();
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = Math.max(6, Math.min(box.right + 8, innerWidth - tip.offsetWidth - 8)) + 'px';
    tip.style.top = Math.max(6, box.top - tip.offsetHeight - 6) + 'px';
  };
  const hide = () => { tip.hidden = true; };
  element.addEventListener('pointerenter', show);
  element.addEventListener('focus', show);
  element.addEventListener('pointerleave', hide);
  element.addEventListener('blur', hide);
}
document.addEventListener('keydown', event => { if (event.key === 'Escape') tip.hidden = true; });

// ---- figures: title, caption, drawing that follows its width, data to read and to take along
function table(columns, rows) {
  const head = make('tr', {}, ...columns.map(c => make('th', {scope: 'col'}, c)));
  return make('table', {}, make('thead', {}, head),
    make('tbody', {}, ...rows.map(r => make('tr', {}, ...r.map(v => make('td', {}, typeof v === 'number' ? short(v, 6) : String(v ?? '')))))));
}
function save(name, columns, rows) {
  const quote = v => /[",\n]/.test(String(v)) ? '"' + String(v).replace(/"/g, '""') + '"' : String(v ?? '');
  const text = [columns, ...rows].map(r => r.map(quote).join(',')).join('\n') + '\n';
  const url = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
  make('a', {href: url, download: name + '.csv'}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
function figure({id, title, caption, wide, columns, rows, legend, controls, paint, height = 320}) {
  const plot = make('div', {class: 'plot'});
  const get = make('button', {class: 'get', type: 'button'}, 'Download data (CSV)');
  get.addEventListener('click', () => save('nfloat-' + id, columns, rows()));
  const details = make('details', {}, make('summary', {}, 'Data as a table'));
  details.addEventListener('toggle', () => {
    if (details.open) details.replaceChildren(details.firstChild, make('div', {class: 'scroll', tabindex: '0'}, table(columns, rows())));
  });
  const parts = [make('h2', {id: 't-' + id}, title), make('figcaption', {}, caption), ...(controls ? [controls] : []), plot];
  if (legend) parts.push(make('div', {class: 'legend'}, ...legend.map(([name, colour]) => make('span', {style: '--k:' + colour}, name))));
  figures.append(make('figure', {id, class: wide ? 'wide' : '', 'aria-labelledby': 't-' + id}, ...parts, get, details));
  let width = 0;
  const redraw = () => {
    const box = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    const tall = typeof height === 'function' ? height(width) : height;
    box.setAttribute('viewBox', `0 0 ${width} ${tall}`);
    box.setAttribute('height', tall);
    box.setAttribute('role', 'group');
    box.setAttribute('aria-label', title + '. ' + caption);
    paint(box, width, tall);
    plot.replaceChildren(box);
  };
  new ResizeObserver(() => {
    if (Math.abs(plot.clientWidth - width) < 1 || plot.clientWidth === 0) return;
    width = plot.clientWidth;
    requestAnimationFrame(redraw);
  }).observe(plot);
  return redraw;
}

// Axes of a drawing; returns where x and y lie.
function axes(svg, width, height, {xs, ys, xLabel, yLabel, xLog, yLog, xText = short, yText = short, left = 58}) {
  const right = 14, top = 12, bottom = 44;
  const x = scale(xs, left, width - right, xLog), y = scale(ys, height - bottom, top, yLog);
  for (const t of y.ticks) {
    draw(svg, 'line', {class: 'grid', x1: left, x2: width - right, y1: y(t), y2: y(t)});
    draw(svg, 'text', {x: left - 7, y: y(t) + 4, 'text-anchor': 'end'}, yText(t));
  }
  for (const t of x.ticks) {
    draw(svg, 'line', {class: 'grid', x1: x(t), x2: x(t), y1: top, y2: height - bottom});
    draw(svg, 'text', {x: x(t), y: height - bottom + 16, 'text-anchor': 'middle'}, xText(t));
  }
  draw(svg, 'line', {class: 'axis', x1: left, x2: width - right, y1: height - bottom, y2: height - bottom});
  draw(svg, 'text', {x: (left + width - right) / 2, y: height - 8, 'text-anchor': 'middle'}, xLabel);
  draw(svg, 'text', {transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle'}, yLabel);
  return {x, y, top, bottom: height - bottom, left, right: width - right};
}
const path = points => points.map(([x, y], i) => (i ? 'L' : 'M') + x.toFixed(1) + ' ' + y.toFixed(1)).join('');
const line = (svg, points, colour, extra = '') => draw(svg, 'path', {class: 'line ' + extra, stroke: colour, d: path(points)});

// Formats as points, their names beside the most important ones.
function scatter({id, title, caption, value, xOf, xLabel, yLabel, xText, front}) {
  // Formats far to the right would press the others together.
  const near = run.filter(f => f.bits_per_weight < 6), all = run;
  const shown = near.length >= 3 ? near : all, away = all.filter(f => !shown.includes(f));
  if (away.length) caption += ' Outside the picture: ' + away.map(f => `${f.name} (${xText ? xText(xOf(f)) : short(xOf(f))}; ${short(value(f))})`).join(', ') + '.';
  const legend = families.map((name, i) => [name, `var(--c${i})`]).filter((_, i) => run.some(f => family(f.name) === i));
  figure({
    id, title, caption, legend,
    columns: ['format', xLabel, yLabel, 'on the Pareto front'],
    rows: () => run.map(f => [f.name, xOf(f), value(f), f.pareto ? 'yes' : 'no']),
    height: w => w < 420 ? 380 : 460,
    paint(svg, width, height) {
      const a = axes(svg, width, height, {xs: shown.map(xOf), ys: shown.map(value), xLabel, yLabel, yLog: true, xText});
      if (front) {
        const steps = [];
        for (const f of shown.filter(f => f.pareto).sort((p, q) => xOf(p) - xOf(q))) {
          if (steps.length) steps.push([a.x(xOf(f)), steps.at(-1)[1]]);
          steps.push([a.x(xOf(f)), a.y(value(f))]);
        }
        line(svg, steps, 'var(--soft)', 'dashed');
      }
      const taken = [];
      const free = box => taken.every(t => box[2] < t[0] || box[0] > t[2] || box[3] < t[1] || box[1] > t[3]);
      for (const f of shown) taken.push([a.x(xOf(f)) - 5, a.y(value(f)) - 5, a.x(xOf(f)) + 5, a.y(value(f)) + 5]);
      for (const f of [...shown].sort((p, q) => (q.name === best) - (p.name === best) || q.pareto - p.pareto)) {
        const x = a.x(xOf(f)), y = a.y(value(f)), long = f.name.length * 6.4 + 4;
        for (const [dx, dy, anchor] of [[9, 4, 'start'], [-9, 4, 'end'], [0, -10, 'middle'], [0, 20, 'middle'], [9, -8, 'start'], [9, 16, 'start'], [-9, -8, 'end'], [-9, 16, 'end']]) {
          const start = x + dx - (anchor === 'end' ? long : anchor === 'middle' ? long / 2 : 0);
          const box = [start, y + dy - 10, start + long, y + dy + 3];
          if (box[0] < a.left || box[2] > a.right + 8 || box[1] < a.top - 4 || box[3] > a.bottom || !free(box)) continue;
          taken.push(box);
          draw(svg, 'text', {x: x + dx, y: y + dy, 'text-anchor': anchor, class: 'halo' + (f.name === best ? ' strong' : '')}, f.name);
          break;
        }
      }
      for (const f of shown) {
        const mark = draw(svg, 'circle', {cx: a.x(xOf(f)), cy: a.y(value(f)), r: f.name === best ? 7 : 5, fill: `var(--c${family(f.name)})`, 'fill-opacity': f.pareto ? 1 : 0.55});
        showTip(mark, `${f.name}\n${f.bits_per_weight.toFixed(3)} bits a weight, model ${bytes(f.model_bytes)}\nerror ${short(f.nmse)} of the variance\nmean KL ${short(f.divergence.mean_kl)} nats\nperplexity ${f.perplexity.perplexity.toFixed(3)}`);
      }
    }
  });
}

// ---- the page
document.getElementById('subtitle').textContent =
  `${data.model}: ${run.length} formats on ${data.tokens.toLocaleString('en')} tokens of ${data.text}; protocol ${data.protocol}, windows of ${data.context} tokens, ${data.precision} arithmetic.`;
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
    const button = make('button', {type: 'button'}, name);
    button.addEventListener('click', () => { up = sorted === i ? !up : true; sorted = i; fill(); });
    heads.push(make('th', {scope: 'col'}, button));
  });
  const get = make('button', {class: 'get', type: 'button'}, 'Download data (CSV)');
  get.addEventListener('click', () => save('nfloat-formats', columns.map(c => c[0]), run.map(f => columns.map(c => c[1](f)))));
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
  const get = make('button', {class: 'get', type: 'button'}, 'Download data (CSV)');
  get.addEventListener('click', () => save('nfloat-tasks', columns, rows));
  const chance = data.plain_tasks.map(t => `${t.task} ${(100 * t.chance).toFixed(1)} % on ${t.questions} questions`).join(', ');
  figures.append(make('figure', {id: 'tasks', class: 'wide'}, make('h2', {}, 'Tests with known answers: accuracy, per cent'),
    make('figcaption', {}, `By guessing: ${chance}.`),
    make('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Table of accuracies'}, table(columns, rows)), get));
})();

scatter({id: 'divergence', title: 'Divergence against size', front: true,
  caption: 'Mean Kullback-Leibler divergence of the predictions from the plain model, nats a token; lower left is better. Dashed: the Pareto front.',
  value: f => f.divergence.mean_kl, xOf: f => f.model_bytes, xLabel: 'bytes of the model', yLabel: 'mean KL, nats', xText: bytes});
scatter({id: 'error', title: 'Error of the weights against bits',
  caption: 'Mean squared error over the variance of the weights of all layers, before any prediction is made.',
  value: f => f.nmse, xOf: f => f.bits_per_weight, xLabel: 'bits a weight, scales included', yLabel: 'squared error / variance'});

const weights = data.weights, bin = 2 * weights.limit / weights.counts.length;
const density = z => Math.exp(-z * z / 2) / Math.sqrt(2 * Math.PI);
(function histogram() {
  const total = weights.counts.reduce((s, v) => s + v, 0) + weights.beyond;
  const points = weights.counts.map((n, i) => [-weights.limit + (i + .5) * bin, n / total / bin]);
  const colours = ['--c0', '--c1', '--c2', '--c3', '--c4'];
  figure({
    id: 'histogram', title: 'The weights, and where each code puts its levels',
    caption: `Weights of all layers over their tensor's deviation (bars), the normal distribution (line); Student's t fits best with ${short(weights.degrees_of_freedom)} degrees of freedom. Below: levels of the codes in a block of 64 with the largest weight at its expected ${weights.block_maximum.toFixed(2)} deviations.`,
    columns: ['deviations', 'density', 'normal density'], rows: () => points.map(([z, d]) => [z, d, density(z)]),
    legend: [['weights', 'var(--soft)'], ['normal', 'var(--c1)']], height: 380,
    paint(svg, width, height) {
      const rug = 17 * weights.codes.length + 8, shown = points.filter(([z]) => Math.abs(z) <= 4);
      const a = axes(svg, width, height - rug, {xs: [-4, 4], ys: [0, ...shown.map(p => p[1]), density(0)], xLabel: 'standard deviations', yLabel: 'density'});
      for (const [z, d] of shown) {
        const bar = draw(svg, 'rect', {x: a.x(z - bin / 2), width: a.x(bin) - a.x(0) - .5, y: a.y(d), height: Math.max(0, a.y(0) - a.y(d)), fill: 'var(--soft)', 'fill-opacity': .45});
        draw(bar, 'title', {}, `${z.toFixed(2)} deviations: density ${short(d)}`);
      }
      line(svg, range(161, i => -4 + i / 20).map(z => [a.x(z), a.y(density(z))]), 'var(--c1)');
      weights.codes.forEach((code, k) => {
        const y = height - rug + 12 + 17 * k;
        draw(svg, 'text', {x: a.left - 8, y: y + 4, 'text-anchor': 'end', class: 'strong'}, code.name);
        draw(svg, 'line', {class: 'grid', x1: a.left, x2: a.right, y1: y, y2: y});
        for (const level of code.levels) draw(svg, 'line', {x1: a.x(level * weights.block_maximum), x2: a.x(level * weights.block_maximum), y1: y - 6, y2: y + 6, stroke: `var(${colours[k % 5]})`, 'stroke-width': 2});
      });
    }
  });
})();

figure({
  id: 'qq', title: 'Quantiles of the weights against the normal distribution',
  caption: 'On the line the weights are normal; an S that leaves it at the ends means heavier tails.',
  columns: ['normal quantile', 'weight quantile'], rows: () => weights.quantiles, height: 380,
  legend: [['weights', 'var(--c0)'], ['normal', 'var(--c1)']],
  paint(svg, width, height) {
    const q = weights.quantiles, xs = q.map(p => p[0]);
    const a = axes(svg, width, height, {xs, ys: [...xs, ...q.map(p => p[1])], xLabel: 'quantile of the normal distribution', yLabel: 'quantile of the weights'});
    line(svg, [[a.x(xs[0]), a.y(xs[0])], [a.x(xs.at(-1)), a.y(xs.at(-1))]], 'var(--c1)', 'dashed');
    for (const [x, y] of q) draw(draw(svg, 'circle', {cx: a.x(x), cy: a.y(y), r: 3, fill: 'var(--c0)'}), 'title', {}, `normal ${x.toFixed(2)}, weights ${y.toFixed(2)}`);
  }
});

(function heat() {
  const tensors = run[0].tensors.map(t => t.name);
  const error = (f, i) => f.tensors[i].squared_error / f.tensors[i].squared_original;
  const layer = name => (name.match(/\.(\d+)\./) || [, '0'])[1];
  const shownFormats = run.filter(f => f.bits_per_weight < 6);
  figure({
    id: 'heat', wide: true, title: 'Error of each tensor by format',
    caption: 'Squared error over the variance of the tensor: the darker (in dark mode: the brighter), the larger. Columns are tensors in the order of the layers, rows are formats below 6 bits.',
    columns: ['format', ...tensors], rows: () => run.map(f => [f.name, ...tensors.map((_, i) => error(f, i))]),
    height: () => 24 * shownFormats.length + 62,
    paint(svg, width) {
      const left = width < 560 ? 118 : 160, cell = (width - left - 4) / tensors.length;
      const logs = shownFormats.flatMap(f => tensors.map((_, i) => Math.log(error(f, i)))).sort((p, q) => p - q);
      // The few at the ends share the end colours.
      const low = logs[Math.floor(.02 * logs.length)], high = logs[Math.floor(.94 * logs.length)];
      shownFormats.forEach((f, row) => {
        draw(svg, 'text', {x: left - 8, y: 24 * row + 17, 'text-anchor': 'end', class: f.name === best ? 'strong' : '', 'font-size': width < 560 ? 10 : 12}, f.name);
        tensors.forEach((name, i) => {
          const share = Math.min(1, Math.max(0, (Math.log(error(f, i)) - low) / (high - low || 1)));
          const box = draw(svg, 'rect', {x: left + i * cell, y: 24 * row + 2, width: Math.max(1, cell - .6), height: 22, style: `fill: color-mix(in srgb, rgb(var(--h1)) ${(100 * share).toFixed(0)}%, rgb(var(--h0)))`});
          draw(box, 'title', {}, `${f.name}\n${name}\nerror ${short(error(f, i))} of the variance`);
        });
      });
      let last = '', end = -40;
      tensors.forEach((name, i) => {
        if (layer(name) === last) return;
        last = layer(name);
        const x = left + i * cell;
        if (x < end + 36) return;
        end = x;
        draw(svg, 'text', {x, y: 24 * shownFormats.length + 18}, 'layer ' + last);
      });
      // The key: from the least to the largest error.
      const y = 24 * shownFormats.length, start = width < 560 ? 10 : left;
      draw(svg, 'text', {x: start, y: y + 46}, short(Math.exp(low)));
      range(60, i => draw(svg, 'rect', {x: start + 56 + i * 2.4, y: y + 35, width: 2.6, height: 12, style: `fill: color-mix(in srgb, rgb(var(--h1)) ${(i / .59).toFixed(0)}%, rgb(var(--h0)))`}));
      draw(svg, 'text', {x: start + 208, y: y + 46}, short(Math.exp(high)));
    }
  });
})();

(function usage() {
  const coded = run.filter(f => f.code_counts.length > 0 && f.code_counts.length <= 16);
  if (coded.length === 0) return;
  let chosen = coded.find(f => f.name === best) || coded[0];
  const select = make('select', {'aria-label': 'Format'}, ...coded.map(f => make('option', f === chosen ? {value: f.name, selected: ''} : {value: f.name}, f.name)));
  const shares = f => { const total = f.code_counts.reduce((s, v) => s + v, 0); return f.code_counts.map(v => v / total); };
  const redraw = figure({
    id: 'usage', title: 'How often each code occurs', controls: select,
    caption: 'Sixteen codes used equally would carry 4 bits each; what the entropy misses is room that an entropy coder could save.',
    columns: ['format', 'entropy, bits', ...range(16, i => 'code ' + i)], rows: () => coded.map(f => [f.name, f.code_entropy, ...shares(f)]),
    paint(svg, width, height) {
      const s = shares(chosen);
      const a = axes(svg, width, height, {xs: [-.5, s.length - .5], ys: [0, ...s, 1 / s.length * 1.1], xLabel: `code (entropy ${chosen.code_entropy.toFixed(3)} of ${Math.log2(s.length).toFixed(0)} bits)`, yLabel: 'share', yText: v => (100 * v).toFixed(0) + ' %'});
      const wide = (a.right - a.left) / s.length * .72;
      s.forEach((v, i) => {
        const bar = draw(svg, 'rect', {x: a.x(i) - wide / 2, width: wide, y: a.y(v), height: Math.max(0, a.y(0) - a.y(v)), fill: 'var(--c0)', rx: 2});
        showTip(bar, `code ${i}: ${(100 * v).toFixed(2)} %`);
      });
      draw(svg, 'line', {class: 'line dashed', stroke: 'var(--c1)', x1: a.left, x2: a.right, y1: a.y(1 / s.length), y2: a.y(1 / s.length)});
    }
  });
  select.addEventListener('change', () => { chosen = coded.find(f => f.name === select.value); redraw(); });
})();

figure({
  id: 'derivation', title: 'Where NF4 comes from',
  caption: 'Probabilities at equal steps on each side of one half (left scale) become quantiles of the normal distribution; divided by the largest they are the 16 levels.',
  columns: ['code', 'probability', 'z-score', 'level'], rows: () => data.nf4.map((c, i) => [i, c.probability, c.z, c.level]),
  legend: [['normal distribution function', 'var(--soft)'], ['the 16 codes', 'var(--c0)']], height: 360,
  paint(svg, width, height) {
    const a = axes(svg, width, height, {xs: [-2.2, 2.2], ys: [0, 1], xLabel: 'z-score (level × largest)', yLabel: 'probability'});
    const cdf = z => { let s = .5, step = z / 200; for (let i = 0; i < 200; ++i) s += step * density((i + .5) * step); return s; };
    line(svg, range(89, i => -2.2 + i / 20).map(z => [a.x(z), a.y(cdf(z))]), 'var(--soft)');
    data.nf4.forEach((c, i) => {
      draw(svg, 'path', {class: 'line', stroke: 'var(--c0)', 'stroke-opacity': .35, 'stroke-width': 1, d: `M${a.left} ${a.y(c.probability)}H${a.x(c.z)}V${a.bottom}`});
      showTip(draw(svg, 'circle', {cx: a.x(c.z), cy: a.y(c.probability), r: 4.5, fill: 'var(--c0)'}), `code ${i}\nprobability ${c.probability.toFixed(5)}\nz-score ${c.z.toFixed(4)}\nlevel ${c.level.toFixed(6)}`);
    });
  }
});

figure({
  id: 'offset', title: 'The number in NF4: its largest probability',
  caption: `Error on normal weights in blocks of 64, each curve over its own least. 929/960 has the least absolute error; the least squared error is at ${data.sweep.best.toFixed(4)}.`,
  columns: ['offset', 'squared error', 'absolute error'], rows: () => data.sweep.points, height: 360,
  legend: [['squared error', 'var(--c0)'], ['absolute error', 'var(--c1)'], ['929/960', 'var(--soft)']],
  paint(svg, width, height) {
    const p = data.sweep.points, least = k => Math.min(...p.map(q => q[k]));
    const ys = p.flatMap(q => [q[1] / least(1), q[2] / least(2)]);
    const a = axes(svg, width, height, {xs: p.map(q => q[0]), ys, xLabel: 'largest probability', yLabel: 'error / least error'});
    for (const k of [1, 2]) line(svg, p.map(q => [a.x(q[0]), a.y(q[k] / least(k))]), `var(--c${k - 1})`);
    line(svg, [[a.x(929 / 960), a.top], [a.x(929 / 960), a.bottom]], 'var(--soft)', 'dashed');
  }
});
document.documentElement.dataset.drawn = 'yes';
