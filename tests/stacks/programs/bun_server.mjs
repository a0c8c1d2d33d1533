// Bun's server: bun bun_server.mjs PORT CERTIFICATE KEY DOWNLOAD
import { readFileSync } from "node:fs";

const [port, certificate, key, download] = process.argv.slice(2);
const body = readFileSync(download);

Bun.serve({
  port: Number(port),
  hostname: "127.0.0.1",
  tls: { cert: readFileSync(certificate, "utf8"), key: readFileSync(key, "utf8") },
  async fetch(request, server) {
    await request.arrayBuffer();
    const { pathname, search } = new URL(request.url);
    // As the peer of clients does: which connection this is, and what was asked.
    if (pathname === "/tell") return new Response(`${server.requestIP(request).port} ${pathname}${search}\n`);
    return new Response(pathname === "/download" ? body : "stored\n");
  },
});
