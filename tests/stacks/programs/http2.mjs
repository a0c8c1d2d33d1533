// Node's http2 module: node http2.mjs URL CERTIFICATE UPLOAD
import http2 from "node:http2";
import { readFileSync } from "node:fs";

const [url, certificate, upload] = process.argv.slice(2);
const session = http2.connect(url, { ca: readFileSync(certificate) });

const exchange = (path, method, body) => new Promise((resolve, reject) => {
  const stream = session.request({ ":path": path, ":method": method }, { endStream: body === undefined });
  let status;
  stream.on("response", (headers) => { status = headers[":status"]; });
  stream.on("error", reject);
  stream.on("end", () => (status < 300 ? resolve() : reject(new Error(status))));
  stream.resume();
  if (body !== undefined) stream.end(body);
});

await exchange("/download", "GET");
await exchange("/upload/body", "PUT", readFileSync(upload));
session.close();
