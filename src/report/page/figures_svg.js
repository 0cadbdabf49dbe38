// SPDX-License-Identifier: Apache-2.0
// The tool's own painters: each kind of figure as SVG elements. They draw where the page carries no Vega, or Vega fails.
'use strict';
function draw(parent, name, attributes = {}, text) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
function scale(values, from, to, log) {
  const [low, high] = padded(values, log).map(v => log ? Math.log10(v) : v);
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

const svgPaint = {
  scatter(svg, width, height, {points, front, xLabel, yLabel, xText}, chosen) {
    const a = axes(svg, width, height, {xs: points.map(p => p.x), ys: points.map(p => p.y), xLabel, yLabel, yLog: true, xText});
    const shade = p => chosen && families[p.family] !== chosen ? .15 : 1;
    const steps = [];
    for (const p of front) {
      if (steps.length) steps.push([a.x(p.x), steps.at(-1)[1]]);
      steps.push([a.x(p.x), a.y(p.y)]);
    }
    if (steps.length) line(svg, steps, 'var(--soft)', 'dashed');
    const taken = points.map(p => [a.x(p.x) - 5, a.y(p.y) - 5, a.x(p.x) + 5, a.y(p.y) + 5]);
    const free = box => taken.every(t => box[2] < t[0] || box[0] > t[2] || box[3] < t[1] || box[1] > t[3]);
    for (const p of [...points].sort((p, q) => q.best - p.best || q.pareto - p.pareto)) {
      const x = a.x(p.x), y = a.y(p.y), long = p.name.length * 6.4 + 4;
      for (const [dx, dy, anchor] of [[9, 4, 'start'], [-9, 4, 'end'], [0, -10, 'middle'], [0, 20, 'middle'], [9, -8, 'start'], [9, 16, 'start'], [-9, -8, 'end'], [-9, 16, 'end']]) {
        const start = x + dx - (anchor === 'end' ? long : anchor === 'middle' ? long / 2 : 0);
        const box = [start, y + dy - 10, start + long, y + dy + 3];
        if (box[0] < a.left || box[2] > a.right + 8 || box[1] < a.top - 4 || box[3] > a.bottom || !free(box)) continue;
        taken.push(box);
        draw(svg, 'text', {x: x + dx, y: y + dy, 'text-anchor': anchor, opacity: shade(p), class: 'halo' + (p.best ? ' strong' : '')}, p.name);
        break;
      }
    }
    for (const p of points) showTip(draw(svg, 'circle', {cx: a.x(p.x), cy: a.y(p.y), r: p.best ? 7 : 5, fill: `var(--c${p.family})`, opacity: shade(p), 'fill-opacity': p.pareto ? 1 : .55}), p.note);
  },
  histogram(svg, width, height, {bars, normal, rug, codes}) {
    const a = axes(svg, width, height - rug, {xs: [-4, 4], ys: [0, ...bars.map(b => b.y), density(0)], xLabel: 'standard deviations', yLabel: 'density'});
    for (const b of bars) showTip(draw(svg, 'rect', {x: a.x(b.from), width: a.x(b.to) - a.x(b.from) - .5, y: a.y(b.y), height: Math.max(0, a.y(0) - a.y(b.y)), fill: 'var(--soft)', 'fill-opacity': .45}), b.note);
    line(svg, normal.map(([z, d]) => [a.x(z), a.y(d)]), 'var(--c1)');
    for (const code of codes) {
      const y = height - rug + code.at;
      draw(svg, 'text', {x: a.left - 8, y: y + 4, 'text-anchor': 'end', class: 'strong'}, code.name);
      draw(svg, 'line', {class: 'grid', x1: a.left, x2: a.right, y1: y, y2: y});
      for (const level of code.levels) draw(svg, 'line', {x1: a.x(level), x2: a.x(level), y1: y - 6, y2: y + 6, stroke: `var(--c${code.colour})`, 'stroke-width': 2});
    }
  },
  quantiles(svg, width, height, points) {
    const xs = points.map(p => p.x);
    const a = axes(svg, width, height, {xs, ys: [...xs, ...points.map(p => p.y)], xLabel: 'quantile of the normal distribution', yLabel: 'quantile of the weights'});
    line(svg, [[a.x(xs[0]), a.y(xs[0])], [a.x(xs.at(-1)), a.y(xs.at(-1))]], 'var(--c1)', 'dashed');
    for (const p of points) showTip(draw(svg, 'circle', {cx: a.x(p.x), cy: a.y(p.y), r: 3, fill: 'var(--c0)'}), p.note);
  },
  heat(svg, width, height, {rows, cells, low, high, left, cell, layers}) {
    const small = width < 560, end = 24 * rows.length;
    const shade = share => `fill: color-mix(in srgb, rgb(var(--h1)) ${(100 * share).toFixed(0)}%, rgb(var(--h0)))`;
    rows.forEach((r, i) => draw(svg, 'text', {x: left - 8, y: 24 * i + 17, 'text-anchor': 'end', class: r.best ? 'strong' : '', 'font-size': small ? 10 : 12}, r.name));
    for (const c of cells) {
      const share = Math.min(1, Math.max(0, Math.log(c.value / low) / (Math.log(high / low) || 1)));
      showTip(draw(svg, 'rect', {x: left + c.column * cell, y: 24 * c.row + 2, width: Math.max(1, cell - .6), height: 22, style: shade(share)}), c.note);
    }
    for (const l of layers) draw(svg, 'text', {x: left + l.column * cell, y: end + 18}, l.text);
    // The key: from the least to the largest error.
    const start = small ? 10 : left;
    draw(svg, 'text', {x: start, y: end + 46}, short(low));
    range(60, i => draw(svg, 'rect', {x: start + 56 + i * 2.4, y: end + 35, width: 2.6, height: 12, style: shade(i / 59)}));
    draw(svg, 'text', {x: start + 208, y: end + 46}, short(high));
  },
  usage(svg, width, height, {bars, xLabel}) {
    const even = 1 / bars.length;
    const a = axes(svg, width, height, {xs: [-.5, bars.length - .5], ys: [0, ...bars.map(b => b.y), even * 1.1], xLabel, yLabel: 'share', yText: v => (100 * v).toFixed(0) + ' %'});
    const wide = (a.right - a.left) / bars.length * .72;
    for (const b of bars) showTip(draw(svg, 'rect', {x: a.x(b.code) - wide / 2, width: wide, y: a.y(b.y), height: Math.max(0, a.y(0) - a.y(b.y)), fill: 'var(--c0)', rx: 2}), b.note);
    line(svg, [[a.left, a.y(even)], [a.right, a.y(even)]], 'var(--c1)', 'dashed');
  },
  derivation(svg, width, height, {curve, codes}) {
    const a = axes(svg, width, height, {xs: [-2.2, 2.2], ys: [0, 1], xLabel: 'z-score (level × largest)', yLabel: 'probability'});
    line(svg, curve.map(([z, p]) => [a.x(z), a.y(p)]), 'var(--soft)');
    for (const c of codes) {
      draw(svg, 'path', {class: 'line', stroke: 'var(--c0)', 'stroke-opacity': .35, 'stroke-width': 1, d: `M${a.left} ${a.y(c.p)}H${a.x(c.z)}V${a.bottom}`});
      showTip(draw(svg, 'circle', {cx: a.x(c.z), cy: a.y(c.p), r: 4.5, fill: 'var(--c0)'}), c.note);
    }
  },
  offset(svg, width, height, {curves, at}) {
    const all = curves.flat();
    const a = axes(svg, width, height, {xs: all.map(p => p.x), ys: all.map(p => p.y), xLabel: 'largest probability', yLabel: 'error / least error'});
    for (const curve of curves) line(svg, curve.map(p => [a.x(p.x), a.y(p.y)]), `var(--c${curve[0].curve})`);
    line(svg, [[a.x(at), a.top], [a.x(at), a.bottom]], 'var(--soft)', 'dashed');
    for (const p of all) showTip(draw(svg, 'circle', {cx: a.x(p.x), cy: a.y(p.y), r: 2.5, fill: `var(--c${p.curve})`}), p.note);
  }
};
painters.push({
  draw(plot, f, width, height) {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    for (const [key, value] of Object.entries({class: 'own', viewBox: `0 0 ${width} ${height}`, height, role: 'group', 'aria-label': f.title + '. ' + f.caption})) svg.setAttribute(key, value);
    svgPaint[f.kind](svg, width, height, f.content(width), f.chosen);
    plot.replaceChildren(svg);
    plot.dataset.by = 'own';
  },
  pictures: () => []
});
