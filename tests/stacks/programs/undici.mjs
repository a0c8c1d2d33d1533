// undici as its own package: node undici.mjs URL CERTIFICATE UPLOAD
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { Client } = createRequire(`${process.env.STACKS_NODE}/`)("undici");
const [url, certificate, upload] = process.argv.slice(2);
const client = new Client(url, { connect: { ca: readFileSync(certificate) } });

for (const [path, method, body] of [["/download", "GET"], ["/upload/body", "PUT", readFileSync(upload)]]) {
  const response = await client.request({ path, method, body });
  await response.body.arrayBuffer();
  if (response.statusCode >= 300) throw new Error(response.statusCode);
}
await client.close();
