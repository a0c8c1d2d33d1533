// A page with a bit of everything, from two origins: node server.js CERTIFICATE KEY FILE.zst. Prints both ports as
// JSON: {"h1": HTTP/1.1, "h2": HTTP/2 with extended CONNECT}.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http2 = require('http2');
const https = require('https');
const path = require('path');
const zlib = require('zlib');

const [certificate, key, zstd] = process.argv.slice(2).map((name) => fs.readFileSync(name));
const options = { cert: certificate, key };
const ports = {};
const read = (name) => fs.readFileSync(path.join(__dirname, name), 'utf8');
const png = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'base64');
const page = (body) => `<!doctype html><meta charset=utf-8>${body}`;
const css = `@font-face{font-family:F;src:url(/font.woff2)}body{font-family:F;background:url(/bg.svg)}/*${'x'.repeat(3000)}*/`;

function wave(seconds) {
  const head = Buffer.from('RIFF....WAVEfmt ................data....', 'latin1');
  [[4, 36 + 8000 * seconds], [16, 16], [24, 8000], [28, 8000], [40, 8000 * seconds]].forEach(
    ([at, value]) => at < 40 && head.writeUInt32LE(value, at));
  [[20, 1], [22, 1], [32, 1], [34, 8]].forEach(([at, value]) => head.writeUInt16LE(value, at));
  const size = Buffer.alloc(4);
  size.writeUInt32LE(8000 * seconds);
  return Buffer.concat([head.subarray(0, 40), size, Buffer.alloc(8000 * seconds, 128)]);
}
const sound = wave(30);

const answer = (status, fields, body) => (_, response) => { response.writeHead(status, fields); response.end(body); };
const received = (request, work) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece)).on('end', () => work(Buffer.concat(pieces)));
};
const abort = (request, response) => (response.stream ? response.stream.close(2) : request.socket.destroy());

const ROUTES = {
  '/page': (request, response) => answer(200, {
    'content-type': 'text/html; charset=utf-8', 'content-encoding': 'gzip', 'x-empty': '', 'x-twice': ['one', 'two'],
    'set-cookie': ['sid=abc; Path=/; HttpOnly; SameSite=Lax', 'pref="a b"; Max-Age=3600; Path=/', 'old=; Expires=Thu, 01 Jan 1970 00:00:00 GMT'],
  }, zlib.gzipSync(read('page.html').replaceAll('@OTHER@', request.other)))(request, response),
  '/style.css': answer(200, { 'content-type': 'text/css', 'content-encoding': 'br' }, zlib.brotliCompressSync(css)),
  '/app.js': (request, response) => {
    const text = read('page.js').replaceAll('@OTHER@', request.other);
    response.writeHead(200, { 'content-type': 'text/javascript' });
    response.write(text.slice(0, 500));
    setTimeout(() => response.end(text.slice(500)), 30);
  },
  '/image.png': answer(200, { 'content-type': 'image/png', 'content-length': png.length }, png),
  '/bg.svg': answer(200, { 'content-type': 'image/svg+xml' }, '<svg xmlns="http://www.w3.org/2000/svg"/>'),
  '/font.woff2': answer(200, { 'content-type': 'font/woff2' }, Buffer.alloc(64, 7)),
  '/frame': answer(200, { 'content-type': 'text/html' }, page('<p>frame<script>fetch("/json?frame")</script>')),
  '/other': answer(200, { 'content-type': 'text/html' }, page('<p>other<img src="/image.png?other">')),
  '/sound.wav': (request, response) => {
    const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const part = sound.subarray(start);
    const range = `bytes ${start}-${sound.length - 1}/${sound.length}`;
    answer(206, { 'content-type': 'audio/wav', 'content-range': range, 'content-length': part.length }, part)(request, response);
  },
  '/track.vtt': answer(200, { 'content-type': 'text/vtt' }, 'WEBVTT\n\n00:00.000 --> 00:01.000\nhi\n'),
  '/manifest': answer(200, { 'content-type': 'application/manifest+json' }, '{"name":"x"}'),
  '/json': (request, response) => answer(200, { 'content-type': 'application/json', 'server-timing': 'db;dur=5' },
    JSON.stringify({ text: 'é', cookie: request.headers.cookie ?? null }))(request, response),
  '/missing': answer(404, { 'content-type': 'text/plain' }, 'no such thing'),
  '/moved': answer(302, { location: '/json?moved', 'set-cookie': 'hop=1' }, 'moved'),
  '/moved307': (request, response) => received(request, () => answer(307, { location: '/echo?moved' })(request, response)),
  '/echo': (request, response) => received(request, (body) => answer(200,
    { 'content-type': request.headers['content-type'] ?? 'application/octet-stream' }, body)(request, response)),
  '/fresh': (request, response) => {
    const fields = { etag: '"v1"', 'cache-control': 'no-cache' };
    if (request.headers['if-none-match'] === '"v1"') answer(304, fields)(request, response);
    else answer(200, { ...fields, 'content-type': 'text/plain' }, 'to be asked for again')(request, response);
  },
  '/kept': answer(200, { 'content-type': 'text/plain', 'cache-control': 'max-age=1000' }, 'from the cache next time'),
  '/zstd': answer(200, { 'content-type': 'text/plain', 'content-encoding': 'zstd' }, zstd),
  '/stacked': answer(200, { 'content-type': 'text/plain', 'content-encoding': 'gzip, br' },
    zlib.brotliCompressSync(zlib.gzipSync('stacked '.repeat(50)))),
  '/martian': answer(200, { 'content-type': 'text/plain', 'content-encoding': 'martian' }, 'unknown coding'),
  '/utf16': answer(200, { 'content-type': 'text/plain; charset=utf-16le' }, Buffer.from('\ufeffhéllo', 'utf16le')),
  '/sjis': answer(200, { 'content-type': 'text/plain; charset=shift_jis' }, Buffer.from('93fa967b8cea', 'hex')),
  '/latin1': answer(200, { 'content-type': 'text/plain; charset=iso-8859-1' }, Buffer.from('caf\xe9', 'latin1')),
  '/binary': answer(200, { 'content-type': 'application/octet-stream' }, Buffer.from([...Array(256).keys()])),
  '/wasm': answer(200, { 'content-type': 'application/wasm' }, Buffer.from('0061736d01000000', 'hex')),
  '/module.mjs': answer(200, { 'content-type': 'text/javascript' }, 'export const x = 1'),
  '/worker.js': answer(200, { 'content-type': 'text/javascript' }, 'fetch("/json?worker").then((r) => r.text()).then(postMessage)'),
  '/none': answer(204, { 'x-none': '1' }),
  '/empty': answer(200, { 'content-type': 'text/plain', 'content-length': 0 }),
  '/hints': (request, response) => {
    response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' }, () => {});
    setTimeout(() => answer(200, { 'content-type': 'text/html' }, page('hinted'))(request, response), 30);
  },
  '/trailers': (_, response) => {
    response.writeHead(200, { 'content-type': 'text/plain', trailer: 'x-sum' });
    response.write('with trailers');
    response.addTrailers({ 'x-sum': 'abc' });
    response.end();
  },
  '/slow': (_, response) => { response.writeHead(200, { 'content-type': 'text/plain' }); response.write('partial'); },
  '/never': () => {},
  '/cut': (request, response) => {
    response.writeHead(200, { 'content-type': 'text/plain', 'content-length': 1000 });
    response.write('only this');
    setTimeout(() => abort(request, response), 30);
  },
  '/lines': (_, response) => {
    response.writeHead(200, { 'content-type': 'text/plain' });
    [0, 1, 2, 3].forEach((n) => setTimeout(() => (n < 3 ? response.write(`line ${n}\n`) : response.end()), 20 * n));
  },
  '/events': (_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    response.write(': hi\nretry: 100000\n\nid: 1\ndata: one\n\n');
    setTimeout(() => response.write('event: tick\nid: 2\ndata: two\ndata: lines\n\n'), 30);
    setTimeout(() => response.write('data: {"end": "é"}\n\nevent: end\ndata:\n\n'), 60);
  },
  '/big': answer(200, { 'content-type': 'text/plain' }, Buffer.alloc(1_000_000, 'big text line\n')),
  '/beacon': (request, response) => received(request, () => answer(204, {})(request, response)),
  '/cors': (request, response) => received(request, () => {
    const fields = { 'access-control-allow-origin': request.headers.origin, 'access-control-allow-methods': 'PUT',
      'access-control-allow-headers': 'x-custom, content-type', 'access-control-allow-credentials': 'true' };
    if (request.method === 'OPTIONS') answer(204, fields)(request, response);
    else answer(200, { ...fields, 'content-type': 'application/json' }, '{"cors":true}')(request, response);
  }),
  '/denied': answer(200, { 'content-type': 'text/plain' }, 'you may not read this'),
  '/who': answer(401, { 'www-authenticate': 'Basic realm="x"', 'content-type': 'text/plain' }, 'who?'),
};

const serve = (other) => (request, response) => {
  request.other = `https://localhost:${ports[other]}`;
  const route = ROUTES[request.url.split('?')[0]] ?? answer(404, { 'content-type': 'text/plain' }, 'nothing');
  if (request.method !== 'CONNECT') route(request, response);
};

// Echoes what comes, after each text a ping (RFC 6455 §5).
function echo(socket) {
  const frame = (opcode, data) => Buffer.concat([Buffer.from(data.length < 126 ? [0x80 | opcode, data.length]
    : [0x80 | opcode, 126, data.length >> 8, data.length & 255]), data]);
  let rest = Buffer.alloc(0);
  socket.on('data', (piece) => {
    rest = Buffer.concat([rest, piece]);
    for (;;) {
      const long = rest.length > 3 && (rest[1] & 127) === 126;
      const start = (long ? 4 : 2) + 4;
      const length = long ? rest.readUInt16BE(2) : rest[1] & 127;
      if (rest.length < start || rest.length < start + length) return;
      const opcode = rest[0] & 15;
      const data = Buffer.from(rest.subarray(start, start + length).map((byte, at) => byte ^ rest[start - 4 + (at & 3)]));
      rest = rest.subarray(start + length);
      if (opcode !== 10) socket.write(frame(opcode, data));
      if (opcode === 1) socket.write(frame(9, Buffer.from('ping')));
      if (opcode === 8) { socket.end(); return; }
    }
  });
}

const h1 = https.createServer(options, serve('h2'));
h1.on('upgrade', (request, socket) => {
  if (request.url.startsWith('/refused')) {
    socket.end('HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno');
    return;
  }
  const accept = crypto.createHash('sha1').update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Socket: yes\r\n'
    + `Sec-WebSocket-Accept: ${accept.digest('base64')}\r\n\r\n`);
  echo(socket);
});
const h2 = http2.createSecureServer({ ...options, settings: { enableConnectProtocol: true } }, serve('h1'));
h2.on('connect', () => {});
h2.on('stream', (stream, fields) => {
  stream.on('error', () => {});
  if (fields[':method'] !== 'CONNECT') return;
  stream.respond({ ':status': 200, 'x-socket': 'yes' });
  echo(stream);
});
for (const server of [h1, h2]) server.on('tlsClientError', () => {});
h1.listen(0, '127.0.0.1', () => h2.listen(0, '127.0.0.1', () => {
  Object.assign(ports, { h1: h1.address().port, h2: h2.address().port });
  console.log(JSON.stringify(ports));
}));
