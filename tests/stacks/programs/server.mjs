// Node's servers: node server.mjs PORT CERTIFICATE KEY DOWNLOAD [1]; HTTP/2 and HTTP/1.1, or HTTP/1.1 alone
import http2 from "node:http2";
import https from "node:https";
import { readFileSync } from "node:fs";

const [port, certificate, key, download, only] = process.argv.slice(2);
const body = readFileSync(download);
const options = { cert: readFileSync(certificate), key: readFileSync(key), allowHTTP1: true };

const answer = (request, response) => {
  request.resume();
  request.on("end", () => response.end(request.url === "/download" ? body : "stored\n"));
};
const server = only ? https.createServer(options, answer) : http2.createSecureServer(options, answer);
server.listen(Number(port), "127.0.0.1");
