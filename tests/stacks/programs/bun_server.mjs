// Bun's server: bun bun_server.mjs PORT CERTIFICATE KEY DOWNLOAD
import { readFileSync } from "node:fs";

const [port, certificate, key, download] = process.argv.slice(2);
const body = readFileSync(download);

Bun.serve({
  port: Number(port),
  hostname: "127.0.0.1",
  tls: { cert: readFileSync(certificate, "utf8"), key: readFileSync(key, "utf8") },
  async fetch(request) {
    await request.arrayBuffer();
    return new Response(new URL(request.url).pathname === "/download" ? body : "stored\n");
  },
});
