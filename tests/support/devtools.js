// Imports a HAR in the real devtools front end of Chromium, as a user would by dropping the file on the network
// panel, and prints what the panel then holds: node devtools.js FILE.har [SCREENSHOT.png]
'use strict';
const fs = require('fs');
const { READY_TIMEOUT_MS, withPanel } = require('./devtools_panel.js');

// Runs inside the devtools page; the modules are the front end's own.
async function importArchive(text) {
  const { ViewManager } = await import('./ui/legacy/legacy.js');
  const Network = await import('./panels/network/network.js');
  const Logs = await import('./models/logs/logs.js');
  await ViewManager.ViewManager.instance().showView('network');
  const panel = Network.NetworkPanel.NetworkPanel.instance();
  await panel.networkLogView.onLoadFromFile(new File([text], 'plaintap.har', { type: 'application/json' }));
  const log = Logs.NetworkLog.NetworkLog.instance();

  const contentOf = async (request) => {
    const data = await request.requestContentData();
    if (data.error) return { error: data.error };
    return data.isTextContent ? { text: data.text } : { base64: data.base64 };
  };
  const requests = [];
  // A phase in milliseconds; null where the panel has none.
  const phase = (timing, start, end) => (timing && timing[start] >= 0 ? timing[end] - timing[start] : null);
  for (const request of log.requests()) {
    const timing = request.timing;
    requests.push({
      url: request.url(),
      method: request.requestMethod,
      status: request.statusCode,
      statusText: request.statusText,
      protocol: request.protocol,
      type: request.resourceType().name(),
      mimeType: request.mimeType,
      remoteAddress: request.remoteAddress(),
      connectionId: request.connectionId,
      priority: request.priority(),
      resourceSize: request.resourceSize,
      transferSize: request.transferSize,
      startSeconds: request.startTime,
      durationMs: request.duration * 1000,
      latencyMs: request.latency * 1000,
      failed: Boolean(request.failed),
      requestHeaders: request.requestHeaders(),
      responseHeaders: request.responseHeaders,
      postData: (await request.requestFormData()) ?? null,
      webSocketMessages: request.frames().map((frame) => ({ type: frame.type, text: frame.text })),
      eventSourceMessages: request.eventSourceMessages().map((event) => ({
        name: event.eventName, id: event.eventId, data: event.data })),
      initiator: request.initiator() ?? null,
      phasesMs: {
        dns: phase(timing, 'dnsStart', 'dnsEnd'),
        connect: phase(timing, 'connectStart', 'connectEnd'),
        ssl: phase(timing, 'sslStart', 'sslEnd'),
        send: phase(timing, 'sendStart', 'sendEnd'),
        wait: phase(timing, 'sendEnd', 'receiveHeadersEnd'),
      },
      content: await contentOf(request),
    });
  }
  return requests;
}

// The names in the panel's grid: those of the rows that fit into the window.
function visibleRows() {
  const rows = [];
  const walk = (node) => {
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.children ?? []) {
      if (child.matches('tr.data-grid-data-grid-node, tr.network-log-grid-row, tr.data-grid-node')) {
        rows.push([...child.querySelectorAll('td')].map((cell) => cell.innerText.replace(/\n/g, ' ')));
      }
      walk(child);
    }
  };
  walk(document.body);
  return rows;
}

async function main(archive, screenshot) {
  await withPanel(async (page, _, problems) => {
    const requests = await page.evaluate(importArchive, fs.readFileSync(archive, 'utf8'));
    const wanted = Math.min(requests.length, 5);
    await page.waitForFunction(`(${visibleRows})().filter((row) => row[0]).length >= ${wanted}`,
      { timeout: READY_TIMEOUT_MS });
    const rows = await page.evaluate(visibleRows);
    if (screenshot) await page.screenshot({ path: screenshot });
    process.stdout.write(JSON.stringify({ requests, rows, problems }));
  });
}

main(process.argv[2], process.argv[3]).catch((error) => {
  process.stderr.write(`${error.stack ?? error}\n`);
  process.exit(1);
});
