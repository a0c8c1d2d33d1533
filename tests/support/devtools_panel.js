// The devtools front end of Chromium, in a page of its own beside the page that it inspects.
'use strict';
const puppeteer = require('puppeteer-core');

const READY_TIMEOUT_MS = 60_000;
const OPTIONS = ['--no-sandbox', '--disable-gpu', '--remote-allow-origins=*', '--window-size=1600,1000'];

// Runs ``work(panel, inspected, problems)``: both pages, and what went wrong in the first. Returns what it returns.
async function withPanel(work, options = []) {
  const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    protocolTimeout: 2 * READY_TIMEOUT_MS,
    args: [...OPTIONS, ...options],
  });
  try {
    const inspected = await browser.newPage();
    await inspected.goto('about:blank');
    const target = inspected.target()._targetId;
    const { host } = new URL(browser.wsEndpoint());
    const panel = await browser.newPage();
    const problems = [];
    panel.on('pageerror', (error) => problems.push(String(error)));
    await panel.setViewport({ width: 1600, height: 1000 });
    const inspector = 'devtools://devtools/bundled/devtools_app.html';
    await panel.goto(`${inspector}?ws=${host}/devtools/page/${target}&panel=network`, { timeout: READY_TIMEOUT_MS });
    await panel.waitForFunction(() => document.body && document.body.children.length > 0, { timeout: READY_TIMEOUT_MS });
    return await work(panel, inspected, problems);
  } finally {
    await browser.close();
  }
}

module.exports = { READY_TIMEOUT_MS, withPanel };
