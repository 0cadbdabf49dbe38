// SPDX-License-Identifier: Apache-2.0
// What each figure shows, prepared once for every painter: `content()` is its data in the form that the painter of its `kind` takes.
'use strict';
const density = z => Math.exp(-z * z / 2) / Math.sqrt(2 * Math.PI);

// Formats as points, in the order of x, their names beside the most important ones.
function scatter({id, title, caption, value, xOf, xLabel, yLabel, xText = short, front}) {
  // Formats far to the right would press the others together.
  const near = run.filter(f => f.bits_per_weight < 6), shown = near.length >= 3 ? near : run;
  const away = run.filter(f => !shown.includes(f));
  if (away.length) caption += ' Outside the picture: ' + away.map(f => `${f.name} (${xText(xOf(f))}; ${short(value(f))})`).join(', ') + '.';
  const points = [...shown].sort((p, q) => xOf(p) - xOf(q)).map(f => ({
    name: f.name, x: xOf(f), y: value(f), family: family(f.name), pareto: f.pareto, best: f.name === best,
    note: `${f.name}\n${f.bits_per_weight.toFixed(3)} bits a weight, model ${bytes(f.model_bytes)}\nerror ${short(f.nmse)} of the variance\nmean KL ${short(f.divergence.mean_kl)} nats\nperplexity ${f.perplexity.perplexity.toFixed(3)}`}));
  figure({
    kind: 'scatter', id, title, caption, inRow: 1,
    legend: families.map((name, i) => [name, `var(--c${i})`, name]).filter((_, i) => points.some(p => p.family === i)),
    columns: ['format', xLabel, yLabel, 'on the Pareto front'],
    rows: () => run.map(f => [f.name, xOf(f), value(f), f.pareto ? 'yes' : 'no']),
    height: w => w < 420 ? 380 : 460,
    content: () => ({points, front: front ? points.filter(p => p.pareto) : [], xLabel, yLabel, xText})
  });
}
scatter({id: 'divergence', title: 'Divergence against size', front: true,
  caption: 'Mean Kullback-Leibler divergence of the predictions from the plain model, nats a token; lower left is better. Dashed: the Pareto front.',
  value: f => f.divergence.mean_kl, xOf: f => f.model_bytes, xLabel: 'bytes of the model', yLabel: 'mean KL, nats', xText: bytes});
scatter({id: 'error', title: 'Error of the weights against bits',
  caption: 'Mean squared error over the variance of the weights of all layers, before any prediction is made.',
  value: f => f.nmse, xOf: f => f.bits_per_weight, xLabel: 'bits a weight, scales included', yLabel: 'squared error / variance'});

const weights = data.weights;
(function histogram() {
  const bin = 2 * weights.limit / weights.counts.length;
  const total = weights.counts.reduce((s, v) => s + v, 0) + weights.beyond;
  const points = weights.counts.map((n, i) => [-weights.limit + (i + .5) * bin, n / total / bin]);
  const bars = points.filter(([z]) => Math.abs(z) <= 4).map(([z, d]) => ({from: z - bin / 2, to: z + bin / 2, y: d, note: `${z.toFixed(2)} deviations: density ${short(d)}`}));
  figure({
    kind: 'histogram', id: 'histogram', title: 'The weights, and where each code puts its levels',
    caption: `Weights of all layers over their tensor's deviation (bars), the normal distribution (line); Student's t fits best with ${short(weights.degrees_of_freedom)} degrees of freedom. Below: levels of the codes in a block of 64 with the largest weight at its expected ${weights.block_maximum.toFixed(2)} deviations.`,
    columns: ['deviations', 'density', 'normal density'], rows: () => points.map(([z, d]) => [z, d, density(z)]),
    legend: [['weights', 'var(--soft)'], ['normal', 'var(--c1)']], height: 380,
    content: () => ({
      bars, normal: range(161, i => -4 + i / 20).map(z => [z, density(z)]), rug: 17 * weights.codes.length + 8,
      codes: weights.codes.map((code, k) => ({name: code.name, colour: k % 5, at: 12 + 17 * k, levels: code.levels.map(v => v * weights.block_maximum)}))
    })
  });
})();

figure({
  kind: 'quantiles', id: 'qq', title: 'Quantiles of the weights against the normal distribution',
  caption: 'On the line the weights are normal; an S that leaves it at the ends means heavier tails.',
  columns: ['normal quantile', 'weight quantile'], rows: () => weights.quantiles, height: 380,
  legend: [['weights', 'var(--c0)'], ['normal', 'var(--c1)']],
  content: () => weights.quantiles.map(([x, y]) => ({x, y, note: `normal ${x.toFixed(2)}, weights ${y.toFixed(2)}`}))
});

(function heat() {
  const tensors = run[0].tensors.map(t => t.name);
  const error = (f, i) => f.tensors[i].squared_error / f.tensors[i].squared_original;
  const layer = name => (name.match(/\.(\d+)\./) || [, '0'])[1];
  const shown = run.filter(f => f.bits_per_weight < 6);
  const cells = shown.flatMap((f, row) => tensors.map((name, column) => (
    {row, column, value: error(f, column), note: `${f.name}\n${name}\nerror ${short(error(f, column))} of the variance`})));
  // The few at the ends share the end colours.
  const sorted = cells.map(c => c.value).filter(v => v > 0).sort((p, q) => p - q);
  const low = sorted[Math.floor(.02 * sorted.length)], high = sorted[Math.floor(.94 * sorted.length)];
  const layers = tensors.map((name, column) => ({column, text: 'layer ' + layer(name)})).filter((l, i, all) => i === 0 || l.text !== all[i - 1].text);
  figure({
    kind: 'heat', id: 'heat', wide: true, title: 'Error of each tensor by format', inRow: tensors.length,
    caption: 'Squared error over the variance of the tensor: the darker (in dark mode: the brighter), the larger. Columns are tensors in the order of the layers, rows are formats below 6 bits.',
    columns: ['format', ...tensors], rows: () => run.map(f => [f.name, ...tensors.map((_, i) => error(f, i))]),
    height: () => 24 * shown.length + 62,
    content: width => {
      const left = width < 560 ? 118 : 160, cell = (width - left - 4) / tensors.length;
      const apart = layers.reduce((kept, l) => kept.length && (l.column - kept.at(-1).column) * cell < 52 ? kept : [...kept, l], []);
      return {rows: shown.map(f => ({name: f.name, best: f.name === best})), cells, columns: tensors.length, low, high, left, cell, layers: apart};
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
    kind: 'usage', id: 'usage', title: 'How often each code occurs', controls: select,
    caption: 'Sixteen codes used equally would carry 4 bits each (dashed); what the entropy misses is room that an entropy coder could save.',
    columns: ['format', 'entropy, bits', ...range(16, i => 'code ' + i)], rows: () => coded.map(f => [f.name, f.code_entropy, ...shares(f)]),
    content: () => ({
      bars: shares(chosen).map((y, code) => ({code, y, note: `code ${code}: ${(100 * y).toFixed(2)} %`})),
      xLabel: `code (entropy ${chosen.code_entropy.toFixed(3)} of ${Math.log2(chosen.code_counts.length).toFixed(0)} bits)`
    })
  });
  select.addEventListener('change', () => { chosen = coded.find(f => f.name === select.value); redraw(); });
})();

(function derivation() {
  const cdf = z => { let s = .5, step = z / 200; for (let i = 0; i < 200; ++i) s += step * density((i + .5) * step); return s; };
  const curve = range(89, i => -2.2 + i / 20).map(z => [z, cdf(z)]);
  const codes = data.nf4.map((c, i) => ({z: c.z, p: c.probability, note: `code ${i}\nprobability ${c.probability.toFixed(5)}\nz-score ${c.z.toFixed(4)}\nlevel ${c.level.toFixed(6)}`}));
  figure({
    kind: 'derivation', id: 'derivation', title: 'Where NF4 comes from',
    caption: 'Probabilities at equal steps on each side of one half (left scale) become quantiles of the normal distribution; divided by the largest they are the 16 levels.',
    columns: ['code', 'probability', 'z-score', 'level'], rows: () => data.nf4.map((c, i) => [i, c.probability, c.z, c.level]),
    legend: [['normal distribution function', 'var(--soft)'], ['the 16 codes', 'var(--c0)']], height: 360,
    content: () => ({curve, codes})
  });
})();

(function offset() {
  const points = data.sweep.points, least = k => Math.min(...points.map(q => q[k]));
  const curves = [1, 2].map(k => points.map(q => ({x: q[0], y: q[k] / least(k), curve: k - 1,
    note: `largest probability ${q[0].toFixed(4)}\n${k === 1 ? 'squared' : 'absolute'} error ${(q[k] / least(k)).toFixed(4)} of its least`})));
  figure({
    kind: 'offset', id: 'offset', title: 'The number in NF4: its largest probability',
    caption: `Error on normal weights in blocks of 64, each curve over its own least. 929/960 has the least absolute error; the least squared error is at ${data.sweep.best.toFixed(4)}.`,
    columns: ['offset', 'squared error', 'absolute error'], rows: () => points, height: 360,
    legend: [['squared error', 'var(--c0)'], ['absolute error', 'var(--c1)'], ['929/960', 'var(--soft)']],
    content: () => ({curves, at: 929 / 960})
  });
})();
document.documentElement.dataset.drawn = 'yes';
