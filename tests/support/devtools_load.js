// Loads a page under the devtools front end of Chromium, and writes the archive that its network panel would save:
// node devtools_load.js URL ARCHIVE. The page is ready when its title is "done"; what it has to say is printed.
'use strict';
const fs = require('fs');
const { READY_TIMEOUT_MS, withPanel } = require('./devtools_panel.js');

const OPTIONS = ['--ignore-certificate-errors', '--disable-quic', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required'];
const CONTENT_TIMEOUT_MS = 5000;

// Runs inside the devtools page, as models/har/Writer.js does, but for requests whose content never comes.
async function archiveOf(timeout) {
  const Logs = await import('./models/logs/logs.js');
  const HAR = await import('./models/har/har.js');
  const requests = Logs.NetworkLog.NetworkLog.instance().requests();
  requests.sort((one, other) => one.issueTime() - other.issueTime());
  const log = await HAR.Log.Log.build(requests, { sanitize: false });
  const never = () => new Promise((resolve) => setTimeout(() => resolve({ error: 'it did not come' }), timeout));
  await Promise.all(requests.map(async (request, index) => {
    const data = await Promise.race([request.requestContentData(), never()]);
    const content = log.entries[index].response.content;
    if (data.error) content._missing = data.error;
    else if (data.isTextContent) Object.assign(content, { text: data.text, _charset: data.charset });
    else Object.assign(content, { text: data.base64, encoding: 'base64' });
  }));
  return JSON.stringify({ log });
}

async function main(url, archive) {
  await withPanel(async (panel, inspected) => {
    await panel.evaluate(async () => {
      const { ViewManager } = await import('./ui/legacy/legacy.js');
      await ViewManager.ViewManager.instance().showView('network');
    });
    await inspected.bringToFront();
    await inspected.goto(url, { timeout: READY_TIMEOUT_MS });
    await inspected.waitForFunction(() => document.title === 'done', { timeout: READY_TIMEOUT_MS });
    process.stdout.write(JSON.stringify(await inspected.evaluate(() => window.results)));
    fs.writeFileSync(archive, await panel.evaluate(archiveOf, CONTENT_TIMEOUT_MS));
  }, OPTIONS);
}

main(process.argv[2], process.argv[3]).catch((error) => {
  process.stderr.write(`${error.stack ?? error}\n`);
  process.exit(1);
});
