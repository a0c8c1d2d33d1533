// Node's https module, since Node 4: node https.cjs URL CERTIFICATE UPLOAD
"use strict";
const https = require("https");
const fs = require("fs");
const parse = require("url").parse;

const url = process.argv[2], certificate = process.argv[3], upload = process.argv[4];
const agent = new https.Agent({ keepAlive: true, ca: fs.readFileSync(certificate) });

const exchange = (path, method, body) => new Promise((resolve, reject) => {
  const options = Object.assign(parse(url + path), { agent: agent, method: method });
  const request = https.request(options, (response) => {
    response.resume();
    response.on("end", () => (response.statusCode < 300 ? resolve() : reject(new Error(response.statusCode))));
  });
  request.on("error", reject);
  request.end(body);
});

exchange("/download", "GET")
  .then(() => exchange("/upload/body", "PUT", fs.readFileSync(upload)))
  .then(() => agent.destroy(), (error) => { console.error(error); process.exit(1); });
