// axios: node axios.mjs URL CERTIFICATE UPLOAD (the certificate is trusted by environment)
import { readFileSync } from "node:fs";
import https from "node:https";
import { createRequire } from "node:module";

const axios = createRequire(`${process.env.STACKS_NODE}/x`)("axios");
const httpsAgent = new https.Agent({ keepAlive: true });
const [url, , upload] = process.argv.slice(2);

await axios.get(`${url}/download`, { httpsAgent, responseType: "arraybuffer" });
await axios.put(`${url}/upload/body`, readFileSync(upload), { httpsAgent });
httpsAgent.destroy();
