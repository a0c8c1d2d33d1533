// A browser driven by Puppeteer: node puppeteer.mjs URL CERTIFICATE UPLOAD BROWSER
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { default: puppeteer } = await import(
  pathToFileURL(`${process.env.STACKS_NODE}/node_modules/puppeteer-core/lib/esm/puppeteer/puppeteer-core.js`)
);
const [url, , upload, executablePath] = process.argv.slice(2);
const userDataDir = mkdtempSync(join(tmpdir(), "browser-"));
const args = ["--ignore-certificate-errors", "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage"];
// By pipes: the WebSocket to the browser would be one more connection.
const browser = await puppeteer.launch({
  executablePath,
  args,
  userDataDir,
  headless: "shell",
  pipe: true,
});
const page = await browser.newPage();
await page.goto(`${url}/tell`);
const status = await page.evaluate(async (body) => {
  await (await fetch("/download")).arrayBuffer();
  const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
  return (await fetch("/upload/body", { method: "PUT", body: bytes })).status;
}, readFileSync(upload).toString("base64"));
await browser.close();
rmSync(userDataDir, { recursive: true, force: true });
process.exit(status < 300 ? 0 : 1);
