// got: node got.mjs URL CERTIFICATE UPLOAD; HTTP/2 where the server offers it
import { readFileSync } from "node:fs";
import https from "node:https";
import { pathToFileURL } from "node:url";

const { default: got } = await import(
  pathToFileURL(`${process.env.STACKS_NODE}/node_modules/got/dist/source/index.js`)
);
const [url, certificate, upload] = process.argv.slice(2);
const options = {
  https: { certificateAuthority: readFileSync(certificate) },
  http2: true,
  agent: { https: new https.Agent({ keepAlive: true }) },
};

await got(`${url}/download`, options).buffer();
await got.put(`${url}/upload/body`, { ...options, body: readFileSync(upload) }).buffer();
process.exit(0);
