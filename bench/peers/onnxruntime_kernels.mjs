// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime's products with 4-bit weights on the shapes of `nfloat bench kernels`, for bench/peers/run.
//   node onnxruntime_kernels.mjs THREADS SECONDS MIB
// One JSON object a row. A model is many nodes with weights of their own that share their input, so that one call passes over MIB of
// weights and its own cost is spread over all of them.
import { createRequire } from 'node:module';
import path from 'node:path';
const require = createRequire(path.resolve('package.json'));
const ort = require('onnxruntime-node');

const [threads, seconds, mebibytes] = process.argv.slice(2).map(Number);

// What of protocol buffers an ONNX model needs: field numbers are those of onnx.proto.
function varint(value) {
  const bytes = [];
  while (value > 127) { bytes.push((value % 128) | 128); value = Math.floor(value / 128); }
  bytes.push(value);
  return Buffer.from(bytes);
}
const number = (field, value) => Buffer.concat([varint(field * 8), varint(value)]);
const bytes = (field, value) => {
  const content = Buffer.isBuffer(value) ? value : Buffer.from(value);
  return Buffer.concat([varint(field * 8 + 2), varint(content.length), content]);
};
const integerAttribute = ([name, value]) => Buffer.concat([bytes(1, name), number(3, value), number(20, 2)]);
const kFloat = 1, kByte = 2;
const initializer = (name, type, dims, data) =>  // copies the data
  Buffer.concat([...dims.map((dim) => number(1, dim)), number(2, type), bytes(8, name), bytes(9, data)]);
const valueInfo = (name, dims) =>
  Buffer.concat([bytes(1, name), bytes(2, bytes(1, Buffer.concat([number(1, kFloat), bytes(2,
    Buffer.concat(dims.map((dim) => bytes(1, number(1, dim)))))])))]);

const operators = {
  'MatMulNBits block 64, int8 activations': {
    type: 'MatMulNBits',
    attributes: (n, k) => ({ K: k, N: n, bits: 4, block_size: 64, accuracy_level: 4 }),
    weights: (n, k) => [n, k / 64, 32],
    scales: (n, k) => [n, k / 64],
  },
  'MatMulBnb4 NF4': {
    type: 'MatMulBnb4',
    attributes: (n, k) => ({ K: k, N: n, block_size: 64, quant_type: 1 }),
    weights: (n, k) => [n * k / 2],
    scales: (n, k) => [n * k / 64],
  },
};

function model(operator, n, k, m, count) {
  const weights = Buffer.alloc(n * k / 2);
  for (let i = 0; i < weights.length; ++i) weights[i] = (i * 37) % 251;
  const scales = Buffer.from(new Float32Array(n * k / 64).fill(0.01).buffer);
  const graph = [];
  for (let i = 0; i < count; ++i) {
    const attributes = Object.entries(operator.attributes(n, k)).map((pair) => bytes(5, integerAttribute(pair)));
    graph.push(bytes(1, Buffer.concat([bytes(1, 'x'), bytes(1, `w${i}`), bytes(1, `s${i}`), bytes(2, `y${i}`),
      bytes(4, operator.type), ...attributes, bytes(7, 'com.microsoft')])));
    weights.writeUInt32LE(i, 0);  // no two alike, should anybody share what is
    graph.push(bytes(5, initializer(`w${i}`, kByte, operator.weights(n, k), weights)));
    graph.push(bytes(5, initializer(`s${i}`, kFloat, operator.scales(n, k), scales)));
    graph.push(bytes(12, valueInfo(`y${i}`, [m, n])));
  }
  const opset = (domain, version) => bytes(8, Buffer.concat([bytes(1, domain), number(2, version)]));
  return Buffer.concat([number(1, 8), opset('', 17), opset('com.microsoft', 1),
    bytes(7, Buffer.concat([...graph, bytes(2, 'products'), bytes(11, valueInfo('x', [m, k]))]))]);
}

for (const [name, operator] of Object.entries(operators)) {
  for (const [n, k, m] of [[4096, 4096, 1], [14336, 4096, 1], [4096, 4096, 8], [4096, 4096, 64], [4096, 4096, 512]]) {
    // Products of many rows read their weights too seldom for it to matter where from: a quarter is enough for them.
    const count = Math.max(1, Math.ceil(mebibytes * 1048576 / (n * k * 0.5625) / (m > 1 ? 4 : 1)));
    const session = await ort.InferenceSession.create(model(operator, n, k, m, count),
      { intraOpNumThreads: threads, interOpNumThreads: 1, executionMode: 'sequential', logSeverityLevel: 3 });
    const x = new ort.Tensor('float32', Float32Array.from({ length: m * k }, (_, i) => (i * 37 % 101) / 50 - 1), [m, k]);
    const all = [];
    await session.run({ x });
    const begin = performance.now();
    while (all.length < 1 || performance.now() - begin < seconds * 1000) {
      const start = performance.now();
      await session.run({ x });
      all.push((performance.now() - start) / 1000 / count);
    }
    all.sort((a, b) => a - b);
    console.log(JSON.stringify({ peer: `ONNX Runtime ${name}`, operation: 'multiply', n, k, m, threads,
      seconds: all[Math.floor(all.length / 2)] }));
    await session.release();
  }
}
