// SPDX-License-Identifier: Apache-2.0
// node faults.mjs PORT PID ABORTED GROWTH: does to a server of nfloat-tiny what clients should not do, ends it with SIGTERM, and ends with
// 1 when it minded. A line for each fault.
import {readFileSync} from 'node:fs';
import net from 'node:net';

const [port, pid, aborted, most] = process.argv.slice(2).map(Number);
const root = `http://127.0.0.1:${port}`;
let failed = false;
const expect = (what, good, value) => {
  if (!good) failed = true;
  console.log(`${good ? 'ok  ' : 'FAIL'}  ${what}: ${value}`);
};
const sleep = ms => new Promise(yes => setTimeout(yes, ms));
const resident = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024;  // MiB
const cpuSeconds = () => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
};
const metric = async name => Number(new RegExp(`\nnfloat:${name} (\\S+)`).exec(await (await fetch(root + '/metrics')).text())?.[1]);
const post = body => fetch(root + '/v1/completions', {method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body)});

// What comes back for these bytes, or for what `act` does with the socket, until the server closes it; '(timed out)' when it does
// not.
const raw = (bytes, {wait = 60000, act = socket => socket.write(bytes)} = {}) => new Promise(done => {
  const socket = net.connect(port, '127.0.0.1');
  let got = '';
  const timer = setTimeout(() => { done('(timed out)'); socket.destroy(); }, wait);
  socket.on('data', data => { got += data; });
  socket.on('error', () => {});
  socket.on('close', () => { clearTimeout(timer); done(got); });
  socket.on('connect', () => act(socket));
});
const head = 'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n';
const whole = body => `${head}Content-Length: ${JSON.stringify(body).length}\r\n\r\n${JSON.stringify(body)}`;
const endless = {prompt: 'The sea is', max_tokens: 300, ignore_eos: true, stream: true};
const status = answer => answer === '(timed out)' ? answer : answer.split('\r\n')[0].split(' ')[1] ?? '(closed)';
const answers = answer => (answer.match(/HTTP\/1\.1 \d/g) ?? []).length;

for (const [what, bytes] of Object.entries({
  'length and chunks': `${head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n`,
  'two lengths': `${head}Content-Length: 5\r\nContent-Length: 6\r\n\r\n`,
  'chunked twice': `${head}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n`,
  'a space before the colon': `${head}Content-Length : 5\r\n\r\n`,
  'lines without CR': 'GET /health HTTP/1.1\nHost: localhost\n\n',
  'a negative chunk': `${head}Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n`,
})) {
  const answer = await raw(bytes);
  expect(what, status(answer) === '400' && answers(answer) === 1, status(answer));
}
{
  // RFC 9112, 5.2: the folds of a field are spaces; what follows stays a field of this request.
  const answer = await raw('GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\nConnection: close\r\n\r\n');
  expect('a folded header', status(answer) === '200' && answers(answer) === 1, status(answer));
}
{
  const piece = '10000\r\n' + 'x'.repeat(65536) + '\r\n';
  let sent = 0;
  const answer = await raw('', {act: socket => {
    socket.write(`${head}Transfer-Encoding: chunked\r\n\r\n`);
    const more = () => { while (!socket.destroyed && sent++ < 1024) if (!socket.write(piece)) { socket.once('drain', more); return; } };
    more();
  }});
  expect('chunks without end', ['413', '(closed)'].includes(status(answer)) && sent < 1024, `${status(answer)} after ${sent >> 4} MiB`);
  const header = await raw('', {act: socket => {
    socket.write('GET / HTTP/1.1\r\n');
    const timer = setInterval(() => socket.destroyed ? clearInterval(timer) : socket.write('X-A: ' + 'b'.repeat(4000) + '\r\n'), 2);
  }});
  expect('a header without end', ['431', '(closed)'].includes(status(header)), status(header));
}
{
  const held = Array.from({length: 200}, (_, i) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.on('error', () => {});
    if (i % 2) socket.on('connect', () => socket.write('POST /v1/compl'));
    return socket.resume();
  });
  const slow = setInterval(() => { if (!held[1].destroyed) held[1].write('e'); }, 300);
  await sleep(200);
  const begun = performance.now(), answer = await post({prompt: 'The sea', max_tokens: 3});
  expect('an answer beside 200 half-open connections', answer.status === 200, `${Math.round(performance.now() - begun)} ms`);
  await sleep(11000);
  const closed = () => held.filter(socket => socket.destroyed || socket.readableEnded).length;
  for (let i = 0; i < 490 && closed() < 200; ++i) await sleep(100);
  clearInterval(slow);
  expect('half-open connections closed after some 12 s', closed() === 200, `${closed()}, ${Math.round(performance.now() - begun)} ms`);
  held.forEach(socket => socket.destroy());
}
{
  const held = Array.from({length: 16}, () => {
    const socket = net.connect({port, host: '127.0.0.1', highWaterMark: 1});
    socket.on('error', () => {});
    socket.on('connect', () => socket.write(whole({...endless, logprobs: 5})));
    return socket.pause();
  });
  const times = [];
  for (let i = 0; i < 100; ++i) {
    const begun = performance.now();
    await (await fetch(root + '/health')).text();
    times.push(performance.now() - begun);
  }
  times.sort((a, b) => a - b);
  expect('/health beside 16 streams that nobody reads', times[50] < 500, `p50 ${times[50].toFixed(1)} ms, p99 ${times[98].toFixed(1)} ms`);
  held.forEach(socket => socket.destroy());
}
const together = (count, clients, one) => {
  let done = 0;
  return Promise.all(Array.from({length: clients}, async () => { while (done < count) await one(++done); }));
};
const atRest = async () => {
  for (let i = 0; i < 1200; ++i) {
    if (await metric('requests_running') + await metric('requests_waiting') === 0) return true;
    await sleep(50);
  }
  return false;
};
expect('at rest', await atRest(), 'nothing runs or waits');
{
  const before = resident();
  let bad = 0;
  await together(2000, 8, async i => {
    const answer = await post({prompt: `Story ${i}: once`, max_tokens: 4});
    await answer.text();
    if (answer.status !== 200) ++bad;
  });
  const growth = resident() - before;
  expect('growth by 2000 requests', growth < most && bad === 0, `${growth.toFixed(1)} MiB`);
}
{
  const before = resident();
  await together(aborted, 32, i => new Promise(done => {
    const socket = net.connect(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.on('close', done);
    socket.on('connect', () => {
      socket.write(whole(endless));
      if (i % 3 === 0) socket.resetAndDestroy();
      else if (i % 3 === 1) socket.once('data', () => socket.destroy());
      else setTimeout(() => socket.destroy(), i % 7);
    });
  }));
  const rest = await atRest(), growth = resident() - before;
  expect(`growth by ${aborted} requests broken off`, rest && growth < most, `${growth.toFixed(1)} MiB${rest ? '' : ', work goes on'}`);
}
{
  const counts = {};
  await Promise.all(Array.from({length: 120}, async () => {
    const answer = await post({prompt: 'a b c', max_tokens: 100, ignore_eos: true});
    await answer.text();
    const name = answer.status + (answer.headers.has('retry-after') ? ' with a time' : '');
    counts[name] = (counts[name] ?? 0) + 1;
  }));
  expect('120 requests at once', Object.keys(counts).every(name => ['200', '429 with a time'].includes(name)), JSON.stringify(counts));
}
await sleep(500);
{
  // What a process takes is counted in ticks, and with what interrupts it.
  let used = 100;
  for (let i = 0; i < 4 && used >= 1; ++i) {
    const before = cpuSeconds();
    await sleep(4000);
    used = Math.min(used, (cpuSeconds() - before) / 4 * 100);
  }
  expect('idle', used < 1, `${used.toFixed(2)} % of a processor`);
}
{
  let begun = 0;
  const streams = Array.from({length: 8}, () => raw('', {act: socket => {
    socket.once('data', () => ++begun);
    socket.write(whole(endless));
  }}));
  for (let i = 0; i < 6000 && begun < 8; ++i) await sleep(5);
  process.kill(pid, 'SIGTERM');
  const ends = (await Promise.all(streams)).filter(answer => answer.includes('[DONE]')).length;
  expect('SIGTERM while 8 answers run', ends === 8, `${ends} came whole`);
}
process.exit(failed ? 1 : 0);
