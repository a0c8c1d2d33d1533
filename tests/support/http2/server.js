// HTTP/2 over TLS: node server.js CERTIFICATE KEY. Prints its port, then a JSON line for every request, with all that
// it has sent and received: fields in their order, hashes of bodies, trailers.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http2 = require('http2');

const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');
const pairs = (raw) => raw.flatMap((name, index) => (index % 2 ? [] : [[name, raw[index + 1]]]));
const pattern = (size) => Buffer.alloc(size, 'The quick brown fox. \u00e9\u0000\u00ff', 'latin1');
const page = `<!doctype html><link rel=stylesheet href="/bytes.css?n=5000"><script src="/bytes.js?n=0"></script><body>
<script>
Promise.all([...Array(20).keys()].map((n) => fetch('/echo?' + n, { method: 'POST', body: 'upload '.repeat(n * 500) })
  .then((answer) => answer.arrayBuffer()).then((body) => body.byteLength)))
  .then((sizes) => { document.body.textContent = 'all of ' + sizes.join(); });
</script>`;
const kinds = { css: 'text/css', js: 'text/javascript' };

const server = http2.createSecureServer({ cert: fs.readFileSync(process.argv[2]), key: fs.readFileSync(process.argv[3]) });
server.on('stream', (stream, headers, flags, raw) => {
  const pieces = [];
  let trailers = [];
  const url = new URL(headers[':path'], 'https://a');
  stream.on('error', () => {});
  stream.on('data', (piece) => pieces.push(piece));
  stream.on('trailers', (found, more, rawTrailers) => { trailers = pairs(rawTrailers ?? Object.entries(found).flat()); });
  stream.on('end', () => {
    const body = Buffer.concat(pieces);
    let sent = body;
    if (url.searchParams.has('n')) sent = pattern(Number(url.searchParams.get('n')));
    if (url.pathname === '/') sent = Buffer.from(page);
    const answer = {
      ':status': url.pathname === '/missing' ? 404 : 200,
      'x-later': 'z',
      'content-type': url.pathname === '/' ? 'text/html' : kinds[url.pathname.split('.')[1]] ?? 'application/octet-stream',
      'x-earlier': 'a',
      'x-number': headers['x-number'] ?? 'none',
    };
    const last = [['x-sum', sha256(sent)], ['x-length', String(sent.length)]];
    const trailing = url.searchParams.has('trailers') || 'te' in headers;
    stream.respond(answer, { sendDate: false, waitForTrailers: trailing });
    if (trailing) stream.on('wantTrailers', () => stream.sendTrailers(Object.fromEntries(last)));
    for (let at = 0; at < sent.length; at += 7_000) stream.write(sent.subarray(at, at + 7_000));
    stream.end();
    process.stdout.write(`${JSON.stringify({
      stream: stream.id, method: headers[':method'], path: headers[':path'], number: headers['x-number'] ?? null,
      port: stream.session.socket.remotePort, request: pairs(raw), requestTrailers: trailers, received: sha256(body),
      response: Object.entries(answer).map(([name, value]) => [name, String(value)]),
      responseTrailers: trailing ? last : [], sent: sha256(sent), size: sent.length })}\n`);
  });
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`${JSON.stringify({ port: server.address().port })}\n`));
