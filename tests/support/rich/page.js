const OTHER = '@OTHER@';
const results = {};
const later = (ms, value) => new Promise((resolve) => setTimeout(() => resolve(value), ms));
const step = async (name, work) => {
  try { results[name] = await Promise.race([work(), later(8000, 'timeout')]); } catch (error) { results[name] = String(error); }
};
const get = (url, options) => fetch(url, options).then((answer) => answer.text()).then((text) => text.length);
const post = (name, body, headers = {}) => step(name, () => get(`/echo?${name}`, { method: 'POST', headers, body }));
const request = (method, url, body) => new Promise((resolve) => {
  const asked = new XMLHttpRequest();
  asked.open(method, url);
  if (body) asked.setRequestHeader('Content-Type', 'text/xml');
  asked.onload = () => resolve(asked.responseText.length);
  asked.send(body);
});
const socket = (url) => new Promise((resolve) => {
  const opened = new WebSocket(url.replace('https', 'wss'));
  const sizes = [];
  opened.onopen = () => ['hello wörld', new Uint8Array([0, 1, 255]), 'x'.repeat(300)].forEach((data) => opened.send(data));
  opened.onmessage = ({ data }) => { if (sizes.push(data.length ?? data.size) === 3) opened.close(1000, 'bye'); };
  opened.onclose = ({ code }) => resolve([code, sizes]);
});
const events = () => new Promise((resolve) => {
  const source = new EventSource('/events');
  source.addEventListener('end', () => { source.close(); resolve('closed'); });
});
const aborted = (url) => { const abort = new AbortController(); setTimeout(() => abort.abort(), 150); return get(url, { signal: abort.signal }); };

(async () => {
  await step('query', () => get('/json?a=1&b=%C3%A9+x&c&d=%FF#fragment'));
  await step('braces', () => get('/json?x=[1]|{2}"3"^`\'&sp ace=ü'));
  for (const name of ['missing', 'moved', 'zstd', 'stacked', 'martian', 'utf16', 'sjis', 'latin1', 'binary', 'wasm', 'none',
    'empty', 'hints', 'trailers', 'lines', 'big', 'cut', 'fresh', 'fresh', 'kept', 'kept']) await step(name, () => get(`/${name}`));
  await step('moved307', () => get('/moved307', { method: 'POST', body: 'goes on' }));
  await post('json', '{"k":"é"}', { 'content-type': 'application/json', 'X-Custom': 'v' });
  await post('form', new URLSearchParams({ a: '1', b: 'x y', c: 'é&=' }));
  await post('rawform', new Uint8Array([97, 61, 0xe9, 38, 98, 61, 37, 69, 57]), { 'content-type': 'application/x-www-form-urlencoded' });
  const form = new FormData();
  form.append('field', 'välue');
  form.append('lines', 'a\r\nb');
  form.append('text', new Blob(['plain'], { type: 'text/plain' }), 'naïve "q".txt');
  await post('multipart', form);
  await post('blob', new Blob([new Uint8Array([0, 1, 255])]));
  await post('nothing');
  await step('put', () => get('/echo?put', { method: 'PUT', body: 'put text' }));
  await step('delete', () => get('/echo?delete', { method: 'DELETE' }));
  await step('head', () => get('/json?head', { method: 'HEAD' }));
  await step('xhr', () => request('GET', '/json?xhr'));
  await step('xhrpost', () => request('POST', '/echo?xhr', '<x>é</x>'));
  await step('who', () => get('/who', { credentials: 'omit' }));
  await step('basic', () => get('/json?basic', { headers: { authorization: 'Basic dTpw' } }));
  await step('module', () => import('/module.mjs').then((module) => module.x));
  await step('cors', () => get(`${OTHER}/cors`, { method: 'PUT', headers: { 'x-custom': '1' }, body: '{}', credentials: 'include' }));
  await step('denied', () => get(`${OTHER}/denied`));
  await step('opaque', () => fetch(`${OTHER}/denied?opaque`, { mode: 'no-cors' }).then((answer) => answer.type));
  await step('events', events);
  await step('socket', () => socket(`${location.origin}/socket?own`));
  await step('othersocket', () => socket(`${OTHER}/socket?other`));
  await step('beacon', () => navigator.sendBeacon('/beacon', 'beacon text'));
  await step('worker', () => new Promise((resolve) => { new Worker('/worker.js').onmessage = ({ data }) => resolve(data.length); }));
  await step('slow', () => aborted('/slow'));
  await step('never', () => aborted('/never'));
  await step('parallel', () => Promise.all([...Array(12).keys()].map((n) => get(`/json?parallel=${n}`))));
  window.results = results;
  document.title = 'done';
})();
