// A forward proxy that speaks HTTP/2 over TLS: node proxy.js CERTIFICATE KEY. Prints its port. Tunnels go to localhost.
'use strict';
const fs = require('fs');
const http2 = require('http2');
const net = require('net');

const [cert, key] = process.argv.slice(2).map((name) => fs.readFileSync(name));
const server = http2.createSecureServer({ cert, key });
server.on('connect', () => {});
server.on('stream', (stream, fields) => {
  stream.on('error', () => {});
  const { hostname, port } = new URL(`http://${fields[':authority']}`);
  if (fields[':method'] !== 'CONNECT' || hostname !== 'localhost') {
    stream.respond({ ':status': 403 });
    stream.end();
    return;
  }
  const socket = net.connect(port, '127.0.0.1', () => {
    stream.respond({ ':status': 200 });
    socket.pipe(stream).pipe(socket);
  });
  socket.on('error', () => stream.close());
  stream.on('close', () => socket.destroy());
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
