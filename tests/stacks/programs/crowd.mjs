// Many connections at once: node crowd.mjs https URL CERTIFICATE CONNECTIONS REQUESTS; as crowd.py
import https from "node:https";
import { readFileSync } from "node:fs";

const [, url, certificate, connections, requests] = process.argv.slice(2);
const ca = readFileSync(certificate);

const get = (agent, path) => new Promise((resolve, reject) => {
  https.get(url + path, { agent }, (response) => response.resume().on("end", resolve)).on("error", reject);
});

const converse = async (number) => {
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca });
  for (let request = 0; request < Number(requests); request++) await get(agent, `/tell?c=${number}&r=${request}`);
  agent.destroy();
};

await Promise.all(Array.from({ length: Number(connections) }, (_, number) => converse(number)));
