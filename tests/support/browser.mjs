// SPDX-License-Identifier: Apache-2.0
// Headless Chromium as a person would use it, through the browser's own protocol.
import {spawn} from 'node:child_process';
import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

const kKeys = {Tab: 9, Enter: 13, Escape: 27, End: 35, ArrowLeft: 37, ArrowRight: 39};

// Starts the program at `path`, with a profile of its own that close() removes.
export class Browser {
  #chrome;
  #profile = mkdtempSync(join(tmpdir(), 'nfloat-browser-'));
  #pending = new Map();
  #next = 0;
  #session = '';
  #listener = () => {};

  constructor(path) {
    this.#chrome = spawn(path, ['--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--no-first-run',
      '--disable-background-networking', '--remote-debugging-pipe', '--user-data-dir=' + this.#profile],
    {stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'], env: {...process.env, HOME: this.#profile}});
    let rest = '';
    this.#chrome.stdio[4].on('data', chunk => {
      rest += chunk;
      for (let end; (end = rest.indexOf('\0')) >= 0; rest = rest.slice(end + 1)) {
        const message = JSON.parse(rest.slice(0, end));
        if (message.id === undefined) { this.#listener(message.method, message.params); continue; }
        const {yes, no} = this.#pending.get(message.id);
        this.#pending.delete(message.id);
        message.error ? no(new Error(message.error.message)) : yes(message.result);
      }
    });
  }

  send(method, params = {}) {
    return new Promise((yes, no) => {
      this.#pending.set(++this.#next, {yes, no});
      this.#chrome.stdio[3].write(JSON.stringify({id: this.#next, method, params, ...(this.#session ? {sessionId: this.#session} : {})}) + '\0');
    });
  }

  // A new page, which the calls that follow are about. complain(text) is told of whatever the page writes to the
  // console, exceptions, violated policies, and requests for addresses that allowed(url) does not allow.
  async open(complain, allowed) {
    this.#session = '';
    const {targetId} = await this.send('Target.createTarget', {url: 'about:blank'});
    this.#session = (await this.send('Target.attachToTarget', {targetId, flatten: true})).sessionId;
    this.#listener = (method, params) => {
      if (method === 'Page.loadEventFired') this.loaded?.();
      if (method === 'Runtime.consoleAPICalled') complain(`console.${params.type}: ${JSON.stringify(params.args.map(a => a.value ?? a.description))}`);
      if (method === 'Runtime.exceptionThrown') complain('exception: ' + (params.exceptionDetails.exception?.description ?? params.exceptionDetails.text));
      if (method === 'Log.entryAdded' && params.entry.level !== 'verbose') complain('log: ' + params.entry.text);
      if (method === 'Network.requestWillBeSent' && !allowed(params.request.url)) complain('a request: ' + params.request.url);
    };
    for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await this.send(domain + '.enable');
  }

  async screen(width, height, dark) {
    await this.send('Emulation.setDeviceMetricsOverride', {width, height, deviceScaleFactor: 1, mobile: width < 500});
    await this.send('Emulation.setEmulatedMedia', {features: [{name: 'prefers-color-scheme', value: dark ? 'dark' : 'light'}]});
  }

  async visit(url) {
    const load = new Promise(yes => { this.loaded = yes; });
    await this.send('Page.navigate', {url});
    await load;
  }

  // What the body of an asynchronous function returns in the page.
  async evaluate(body) {
    const {result, exceptionDetails} = await this.send('Runtime.evaluate',
      {expression: `(async () => {${body}})()`, awaitPromise: true, returnByValue: true});
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  async press(key) {
    const text = key === 'Enter' ? '\r' : undefined, code = kKeys[key];
    for (const type of ['keyDown', 'keyUp']) await this.send('Input.dispatchKeyEvent', {type, key, code: key, text, windowsVirtualKeyCode: code});
  }

  async screenshot(file, captureBeyondViewport = false) {
    const {data} = await this.send('Page.captureScreenshot', {format: 'png', captureBeyondViewport});
    writeFileSync(file, Buffer.from(data, 'base64'));
  }

  async close() {
    const gone = new Promise(yes => this.#chrome.once('exit', yes));
    this.#chrome.kill();
    await gone;
    // Its own processes may write for a moment longer.
    try { rmSync(this.#profile, {recursive: true, force: true, maxRetries: 20, retryDelay: 200}); } catch { /* still writing */ }
  }
}
