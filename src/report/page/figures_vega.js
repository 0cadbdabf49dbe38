// SPDX-License-Identifier: Apache-2.0
// The figures as Vega-Lite specifications. They are compiled in the page; expressions go through vega-interpreter, because the
// page's content security policy forbids eval.
'use strict';

// Colours, as the style sheet has them at this moment: light or dark.
function colours() {
  const style = getComputedStyle(document.documentElement), get = name => style.getPropertyValue('--' + name).trim();
  const named = Object.fromEntries(['card', 'ink', 'soft', 'grid'].map(name => [name, get(name)]));
  return {...named, c: range(6, i => get('c' + i)), heat: ['h0', 'h1'].map(name => `rgb(${get(name)})`), get};
}
const vegaConfig = c => ({
  background: 'transparent', font: 'system-ui, sans-serif', view: {stroke: null}, text: {fontSize: 12, fill: c.soft},
  axis: {gridColor: c.grid, domainColor: c.soft, labelColor: c.soft, titleColor: c.soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 'normal',
    ticks: false, labelPadding: 7, titlePadding: 5, labelOverlap: true, labelBound: false},
  axisY: {domain: false},
  legend: {labelColor: c.soft, labelFontSize: 12}
});

const marksOf = (values, mark, encoding, more = {}) => ({data: {values}, mark, encoding, ...more});
const number = (field, title, domain, axis = {}, type = 'linear') => ({field, type: 'quantitative', scale: {domain, type, nice: false, ...(type === 'log' ? {} : {zero: false})}, axis: {title, ...axis}});
const pixels = field => ({field, type: 'quantitative', scale: null});
const note = {field: 'note', type: 'nominal'};
const quiet = {aria: false, tooltip: null};  // for what stands beside the marks: no stop for readers of the screen
const tickRoom = (size, each) => Math.max(3, Math.floor(size / each));

// kind: (data, width, height, colours) => {layer, and what differs from the usual frame}; width and height are those of the whole picture.
const frame = {left: 62, right: 14, top: 12, bottom: 44};
const specs = {
  scatter({points, front, xLabel, yLabel, xText}, width, height, c) {
    const size = xText === bytes ? "datum.value >= 1e9 ? format(datum.value / 1e9, '.2f') + ' GB' : format(datum.value / 1e6, '.2f') + ' MB'" : undefined;
    const x = number('x', xLabel, padded(points.map(p => p.x)), {tickCount: tickRoom(width, 90), ...(size && {labelExpr: size})});
    const y = number('y', yLabel, padded(points.map(p => p.y), true), {tickCount: tickRoom(height, 50), format: '.3~g'}, 'log');
    const shade = {condition: {test: "chosen === '' || datum.chosen === chosen", value: 1}, value: .15};
    const values = points.map(p => ({...p, chosen: families[p.family], strength: p.pareto ? 1 : .55, size: p.best ? 170 : 90, colour: c.c[p.family],
      rank: (p.best ? 0 : p.pareto ? 1 : 2) + p.x / 1e15, ink: p.best ? c.ink : c.soft}));
    return {
      params: [{name: 'chosen', value: ''}],
      layer: [
        ...(front.length ? [marksOf(front, {type: 'line', interpolate: 'step-after', stroke: c.soft, strokeWidth: 2, strokeDash: [6, 4], clip: true, ...quiet}, {x, y}, {name: 'front'})] : []),
        marksOf(values, {type: 'circle', clip: true}, {x, y, tooltip: note, opacity: shade, fillOpacity: {field: 'strength', type: 'quantitative', scale: null},
          fill: {field: 'colour', type: 'nominal', scale: null}, size: {field: 'size', type: 'quantitative', scale: null}}, {
          name: 'points',
          // The wheel alone scrolls the page, and so does a finger.
          params: [{name: 'part', bind: 'scales', select: {type: 'interval', clear: 'dblclick', zoom: 'wheel![event.ctrlKey || event.metaKey]',
            translate: "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"}}]}),
        marksOf(values, {type: 'text', clip: true, fontWeight: {expr: "datum.best ? 600 : 400"}, ...quiet},
          {x, y, text: {field: 'name', type: 'nominal'}, fillOpacity: shade, fill: {field: 'ink', type: 'nominal', scale: null}}, {name: 'names'})
      ]
    };
  },
  histogram({bars, normal, rug, codes}, width, height, c) {
    const under = height - rug - frame.top;
    const x = number('x', 'standard deviations', [-4, 4], {tickCount: tickRoom(width, 60)});
    const y = number('y', 'density', [0, 1.05 * Math.max(density(0), ...bars.map(b => b.y))], {tickCount: 6});
    const levels = codes.flatMap(code => code.levels.map(x => ({x, top: under + code.at - 6, bottom: under + code.at + 6, colour: c.c[code.colour]})));
    const rows = codes.map(code => ({name: code.name, at: under + code.at}));
    return {
      bottom: frame.bottom + rug,
      layer: [
        marksOf(bars.map(b => ({...b, x: b.from})), {type: 'rect', fill: c.soft, fillOpacity: .45, stroke: c.card, strokeWidth: .5}, {x, x2: {field: 'to'}, y, y2: {datum: 0}, tooltip: note}),
        marksOf(normal.map(([x, y]) => ({x, y})), {type: 'line', stroke: c.c[1], strokeWidth: 2, ...quiet}, {x, y}),
        marksOf(rows, {type: 'rule', stroke: c.grid, ...quiet}, {x: {value: 0}, x2: {value: 'width'}, y: pixels('at')}),
        marksOf(rows, {type: 'text', align: 'right', fontWeight: 600, fill: c.ink, ...quiet}, {x: {value: -8}, y: pixels('at'), text: {field: 'name', type: 'nominal'}}),
        marksOf(levels, {type: 'rule', strokeWidth: 2, ...quiet}, {x, y: pixels('top'), y2: {field: 'bottom'}, stroke: {field: 'colour', type: 'nominal', scale: null}})
      ]
    };
  },
  quantiles(points, width, height, c) {
    const xs = points.map(p => p.x), ends = [xs[0], xs.at(-1)].map(v => ({x: v, y: v}));
    const x = number('x', 'quantile of the normal distribution', padded(xs), {tickCount: tickRoom(width, 70)});
    const y = number('y', 'quantile of the weights', padded([...xs, ...points.map(p => p.y)]), {tickCount: tickRoom(height, 50)});
    return {layer: [
      marksOf(ends, {type: 'line', stroke: c.c[1], strokeWidth: 2, strokeDash: [6, 4], ...quiet}, {x, y}),
      marksOf(points, {type: 'circle', size: 34, fill: c.c[0], opacity: 1}, {x, y, tooltip: note})
    ]};
  },
  heat({rows, cells, low, high, left, cell, layers}, width, height, c) {
    const small = width < 560, names = rows.map(r => r.name), best = names.find((_, i) => rows[i].best);
    const under = 24 * rows.length;
    const y = {field: 'name', type: 'nominal', sort: names, scale: {paddingInner: .08, paddingOuter: .04}, axis: {title: null, grid: false, labelLimit: left - 10, labelFontSize: small ? 10 : 12,
      labelFontWeight: {condition: {test: `datum.value === ${JSON.stringify(best ?? '')}`, value: 600}, value: 400}}};
    return {
      left, right: 4, top: 0, bottom: 62,
      layer: [
        marksOf(cells.map(d => ({...d, name: names[d.row]})), {type: 'rect'}, {
          y, tooltip: note, x: {field: 'column', type: 'ordinal', axis: null, scale: {paddingInner: Math.min(.5, .6 / cell), paddingOuter: 0}},
          fill: {field: 'value', type: 'quantitative', scale: {type: 'log', domain: [low, high], range: c.heat, interpolate: 'rgb', clamp: true, nice: false},
            legend: {title: null, orient: 'none', direction: 'horizontal', legendX: small ? 10 - left : 0, legendY: under + 28, gradientLength: 160, gradientThickness: 10, values: [low, high], format: '.2~g'}}}),
        marksOf(layers.map(l => ({...l, at: l.column * cell})), {type: 'text', align: 'left', baseline: 'middle', ...quiet}, {x: pixels('at'), y: {value: under + 14}, text: {field: 'text', type: 'nominal'}})
      ]
    };
  },
  usage({bars, xLabel}, width, height, c) {
    const even = 1 / bars.length;
    const x = {field: 'code', type: 'ordinal', scale: {paddingInner: .28, paddingOuter: .14}, axis: {title: xLabel, labelAngle: 0, grid: false}};
    const y = number('y', 'share', [0, 1.05 * Math.max(even, ...bars.map(b => b.y))], {format: '.0%', tickCount: 6});
    return {layer: [
      marksOf(bars, {type: 'bar', fill: c.c[0], cornerRadiusEnd: 2}, {x, y, tooltip: note}),
      marksOf([{y: even}], {type: 'rule', stroke: c.c[1], strokeWidth: 2, strokeDash: [6, 4], ...quiet}, {x: {value: 0}, x2: {value: 'width'}, y})
    ]};
  },
  derivation({curve, codes}, width, height, c) {
    const x = number('x', 'z-score (level × largest)', [-2.2, 2.2], {tickCount: tickRoom(width, 60)}), y = number('y', 'probability', [0, 1.02], {tickCount: 6});
    const points = codes.map(code => ({x: code.z, y: code.p, note: code.note}));
    const thin = {type: 'rule', stroke: c.c[0], strokeOpacity: .35, ...quiet};
    return {layer: [
      marksOf(curve.map(([x, y]) => ({x, y})), {type: 'line', stroke: c.soft, strokeWidth: 2, ...quiet}, {x, y}),
      marksOf(points, thin, {x, y, x2: {value: 0}}),
      marksOf(points, thin, {x, y, y2: {value: 'height'}}),
      marksOf(points, {type: 'circle', size: 70, fill: c.c[0], opacity: 1}, {x, y, tooltip: note})
    ]};
  },
  offset({curves, at}, width, height, c) {
    const all = curves.flat(), values = all.map(p => ({...p, colour: c.c[p.curve]}));
    const x = number('x', 'largest probability', padded(all.map(p => p.x)), {tickCount: tickRoom(width, 70)});
    const y = number('y', 'error / least error', padded(all.map(p => p.y)), {tickCount: tickRoom(height, 50)});
    return {layer: [
      ...curves.map(points => marksOf(points, {type: 'line', stroke: c.c[points[0].curve], strokeWidth: 2, ...quiet}, {x, y})),
      marksOf([{x: at}], {type: 'rule', stroke: c.soft, strokeWidth: 2, strokeDash: [6, 4], ...quiet}, {x}),
      marksOf(values, {type: 'circle', size: 22, opacity: 1}, {x, y, tooltip: note, fill: {field: 'colour', type: 'nominal', scale: null}})
    ]};
  }
};

// Names of formats are placed beside their points where they cover nothing; the most important choose first, what has no room is left out.
function placeNames(spec) {
  const names = spec.marks.find(mark => mark.name === 'names_marks');
  if (!names) return;
  const sides = ['right', 'left', 'top', 'bottom', 'top-right', 'bottom-right', 'top-left', 'bottom-left'];
  names.transform = [{type: 'label', size: [{signal: 'width'}, {signal: 'height'}], anchor: sides, offset: sides.map(side => side.includes('-') ? 12 : 10),
    avoidMarks: ['points_marks', ...(spec.marks.some(mark => mark.name === 'front_marks') ? ['front_marks'] : [])], avoidBaseMark: false, sort: {field: 'datum.rank'}, padding: 0}];
}
function vegaSpec(f, width, height, c) {
  const {left, right, top, bottom, ...rest} = {...frame, ...specs[f.kind](f.content(width), width, height, c)};
  const spec = vegaLite.compile({autosize: 'none', padding: {left, right, top, bottom}, width: width - left - right, height: height - top - bottom,
    description: f.title + '. ' + f.caption, ...rest}, {config: vegaConfig(c)}).spec;
  placeNames(spec);
  return spec;
}
const vegaView = (spec, options) => new vega.View(vega.parse(spec, null, {ast: true}), {expr: vega.expressionInterpreter, logLevel: vega.Warn, ...options});

// Marks with a note become stops for the arrow keys.
function noteMarks(holder) {
  for (const element of holder.querySelectorAll('.role-mark path')) if (element.__data__?.tooltip) showTip(element, element.__data__.tooltip);
}

// A picture to take along: with title, legend and background, in today's colours.
function picture(f, width, height) {
  const c = colours(), spec = vegaSpec(f, width, height, c);
  Object.assign(spec, {autosize: 'pad', padding: 16, background: c.card, title: {text: f.title, anchor: 'start', color: c.ink, fontSize: 15, offset: 12}});
  if (f.legend) {
    const real = colour => colour.replace(/var\(--(\w+)\)/, (_, name) => c.get(name));
    (spec.scales ??= []).push({name: 'key', type: 'ordinal', domain: f.legend.map(k => k[0]), range: f.legend.map(k => real(k[1]))});
    (spec.legends ??= []).push({fill: 'key', orient: 'top', direction: 'horizontal', symbolType: 'circle', symbolStrokeWidth: 0, columns: width < 420 ? 2 : 0});
  }
  const view = vegaView(spec, {renderer: 'none'});
  if (f.chosen) view.signal('chosen', f.chosen);
  return view;
}

if (window.vega && window.vegaLite && vega.expressionInterpreter) {
  painters.push({
    async draw(plot, f, width, height) {
      const holder = make('div'), turn = plot.turn = (plot.turn ?? 0) + 1;
      const view = vegaView(vegaSpec(f, width, height, colours()), {renderer: 'svg'}).tooltip(() => {}).initialize(holder);  // the page has its own notes
      if (f.chosen) view.signal('chosen', f.chosen);
      await view.runAsync();
      if (turn !== plot.turn) { view.finalize(); return; }
      const svg = holder.querySelector('svg');
      svg.setAttribute('role', 'group');
      svg.setAttribute('aria-label', f.title + '. ' + f.caption);
      holder.removeAttribute('role');
      noteMarks(holder);
      plot.view?.finalize();
      plot.view = view;
      plot.replaceChildren(holder);
      plot.dataset.by = 'vega';
    },
    hint: f => f.kind === 'scatter' ? 'Dragging moves the picture, Ctrl and the wheel enlarge it, a double click shows all again.' : '',
    async choose(plot, f) {
      await plot.view.signal('chosen', f.chosen).runAsync();
      noteMarks(plot);
    },
    pictures: (f, width, height) => [
      button('Save as SVG', async () => saveBlob(`nfloat-${f.id}.svg`, new Blob([await picture(f, width(), height()).toSVG()], {type: 'image/svg+xml'}))),
      button('Save as PNG', async () => (await picture(f, width(), height()).toCanvas(2)).toBlob(blob => saveBlob(`nfloat-${f.id}.png`, blob)))]
  });
}
