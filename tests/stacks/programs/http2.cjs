// Node's http2 module, since Node 10: node http2.cjs URL CERTIFICATE UPLOAD
"use strict";
const http2 = require("http2");
const fs = require("fs");

const [url, certificate, upload] = process.argv.slice(2);
const session = http2.connect(url, { ca: fs.readFileSync(certificate) });

const exchange = (path, method, body) => new Promise((resolve, reject) => {
  const stream = session.request({ ":path": path, ":method": method }, { endStream: body === undefined });
  let status;
  stream.on("response", (headers) => { status = headers[":status"]; });
  stream.on("error", reject);
  stream.on("end", () => (status < 300 ? resolve() : reject(new Error(status))));
  stream.resume();
  if (body !== undefined) stream.end(body);
});

exchange("/download", "GET")
  .then(() => exchange("/upload/body", "PUT", fs.readFileSync(upload)))
  .then(() => session.close(), (error) => { console.error(error); process.exit(1); });
