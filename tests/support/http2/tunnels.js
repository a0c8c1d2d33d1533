// Uploads through tunnels, all streams of one connection to the proxy: node tunnels.js PROXY SERVER CERTIFICATE COUNT.
'use strict';
const fs = require('fs');
const http2 = require('http2');
const tls = require('tls');

const [proxy, server, certificate, count] = process.argv.slice(2);
const ca = fs.readFileSync(certificate);
const session = http2.connect(`https://localhost:${proxy}`, { ca });

const upload = (number) => new Promise((resolve, reject) => {
  const tunnel = session.request({ ':method': 'CONNECT', ':authority': `localhost:${server}` });
  tunnel.on('error', reject);
  const inner = tls.connect({ socket: tunnel, servername: 'localhost', ca }, () => {
    inner.write(`PUT /echo?${number} HTTP/1.1\r\nHost: localhost:${server}\r\nConnection: close\r\n`
      + `Content-Length: ${number * 7000}\r\n\r\n${'x'.repeat(number * 7000)}`);
  });
  let answer = '';
  inner.on('error', reject).on('data', (data) => { answer += data; }).on('end', () => resolve(answer.split('\r\n')[0]));
});

Promise.all([...Array(Number(count)).keys()].map(upload)).then((lines) => {
  console.log(lines.join('\n'));
  process.exit();
});
