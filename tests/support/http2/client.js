// node client.js URL CERTIFICATE: for each line of its input, a number N, makes N requests at once, all on one
// connection, and prints a line when they have been answered.
'use strict';
const fs = require('fs');
const http2 = require('http2');
const readline = require('readline');

const session = http2.connect(process.argv[2], { ca: fs.readFileSync(process.argv[3]) });
let number = 0;

function ask(done) {
  const n = number;
  number += 1;
  const upload = Buffer.alloc((n * 997) % 30_000, `upload ${n} `);
  const stream = session.request({
    ':method': 'POST', ':path': n % 3 ? `/bytes?n=${(n * 1009) % 40_000}&trailers` : `/echo?${n}`,
    'x-number': String(n), 'user-agent': 'node', 'accept': '*/*', te: 'trailers',
  }, { waitForTrailers: n % 2 === 0 });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'x-upload': String(n) }));
  stream.on('data', () => {});
  stream.on('end', done);
  stream.end(upload);
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  let open = Number(line);
  for (let n = Number(line); n > 0; n -= 1) {
    ask(() => {
      open -= 1;
      if (!open) process.stdout.write('answered\n');
    });
  }
}).on('close', () => session.close());
