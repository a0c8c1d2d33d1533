// Node's servers: node server.cjs PORT CERTIFICATE KEY DOWNLOAD [1]; HTTP/2 (since Node 10) and HTTP/1.1, or HTTP/1.1
"use strict";
const https = require("https");
const fs = require("fs");

const port = process.argv[2], only = process.argv[6];
const body = fs.readFileSync(process.argv[5]);
const options = { cert: fs.readFileSync(process.argv[3]), key: fs.readFileSync(process.argv[4]), allowHTTP1: true };

const answer = (request, response) => {
  request.resume();
  request.on("end", () => response.end(request.url === "/download" ? body : "stored\n"));
};
const create = only ? https.createServer : require("http2").createSecureServer;
create(options, answer).listen(Number(port), "127.0.0.1");
