// HTTP/1 and HTTP/2 in cleartext, each on its own port, and what they received in one JSON line per request.
// A request says what it wants: /echo, /bytes?n=N (N bytes of a pattern), /events, /trailers.
'use strict';
const crypto = require('crypto');
const http = require('http');
const http2 = require('http2');

const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');
const pattern = (size) => Buffer.alloc(size, 'The quick brown fox. \u00e9\u0000\u00ff', 'latin1');

function answer(request, response) {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    const body = Buffer.concat(pieces);
    const url = new URL(request.url, 'http://a');
    let sent = body;
    if (url.pathname === '/bytes') sent = pattern(Number(url.searchParams.get('n')));
    if (url.pathname === '/events') sent = Buffer.from('event: tick\nid: 1\ndata: one\n\ndata: two\n\n');
    response.setHeader('X-Number', request.headers['x-number'] ?? 'none');
    response.setHeader('Content-Type', url.pathname === '/events' ? 'text/event-stream' : 'application/octet-stream');
    if (url.pathname === '/trailers') response.setHeader('Trailer', 'X-Sum');
    response.writeHead(url.pathname === '/missing' ? 404 : 200);
    for (let at = 0; at < sent.length; at += 10_000) response.write(sent.subarray(at, at + 10_000));
    if (url.pathname === '/trailers') response.addTrailers({ 'X-Sum': sha256(sent) });
    response.end();
    process.stdout.write(`${JSON.stringify({
      method: request.method, url: request.url, number: request.headers['x-number'] ?? null,
      headers: request.headers, received: sha256(body), sent: sha256(sent), size: sent.length })}\n`);
  });
}

const one = http.createServer(answer).listen(0, '127.0.0.1', () => {
  const two = http2.createServer(answer).listen(0, '127.0.0.1', () => {
    process.stdout.write(`${JSON.stringify({ http1: one.address().port, http2: two.address().port })}\n`);
  });
});
