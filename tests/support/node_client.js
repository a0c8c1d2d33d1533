// Many HTTP/2 requests at once over one connection: node node_client.js PORT COUNT. Prints what came back.
'use strict';
const crypto = require('crypto');
const http2 = require('http2');

const [port, count] = process.argv.slice(2).map(Number);
const session = http2.connect(`http://127.0.0.1:${port}`);
const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');
let open = count;

for (let number = 0; number < count; number += 1) {
  const upload = Buffer.alloc((number * 997) % 30_000, `upload ${number} `);
  const path = number % 3 ? `/bytes?n=${(number * 1009) % 40_000}` : '/echo';
  const stream = session.request({ ':method': 'POST', ':path': path, 'x-number': String(number), 'user-agent': 'node' });
  const pieces = [];
  let status;
  stream.on('response', (head) => { status = head[':status']; });
  stream.on('data', (piece) => pieces.push(piece));
  stream.on('end', () => {
    const result = { number, status, sent: sha256(upload), received: sha256(Buffer.concat(pieces)) };
    process.stdout.write(`${JSON.stringify(result)}\n`);
    open -= 1;
    if (!open) session.close();
  });
  stream.end(upload);
}
