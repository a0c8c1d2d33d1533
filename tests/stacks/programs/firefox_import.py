"""Imports a HAR in Firefox's own network panel, and prints what that then holds: ``firefox_import.py ARCHIVE``."""

import sys
from pathlib import Path

from marionette import firefox

# What the panel does with a file that is dropped on it (components/DropHarHandler.js).
SCRIPT = """
const [text, done] = arguments;
(async () => {
  const { require } = ChromeUtils.importESModule("resource://devtools/shared/loader/Loader.sys.mjs");
  const { gDevTools } = require("devtools/client/framework/devtools");
  const browser = Services.wm.getMostRecentWindow("navigator:browser");
  const toolbox = await gDevTools.showToolboxForTab(browser.gBrowser.selectedTab,
    { toolId: "netmonitor", hostType: "window" });
  const { store, windowRequire } = toolbox.getCurrentPanel().panelWin;
  const source = "devtools/client/netmonitor/src";
  const { HarImporter } = windowRequire(`${source}/har/har-importer`);
  const { getDisplayedRequests } = windowRequire(`${source}/selectors/index`);
  const actions = {};
  for (const [name, action] of Object.entries(windowRequire(`${source}/actions/index`)))
    actions[name] = (...words) => store.dispatch(action(...words));
  new HarImporter(actions).import(text);
  const shown = getDisplayedRequests(store.getState()).map((request) => ({
    url: request.url, host: request.urlDetails.host, method: request.method,
    status: request.status, statusText: request.statusText, httpVersion: request.httpVersion,
    mimeType: request.mimeType, contentSize: request.contentSize, transferredSize: request.transferredSize,
    remoteAddress: request.remoteAddress, remotePort: request.remotePort, totalTime: request.totalTime,
    requestHeaders: request.requestHeaders.headers, responseHeaders: request.responseHeaders.headers,
    requestCookies: request.requestCookies, responseCookies: request.responseCookies,
    postData: request.requestPostData.postData, content: request.responseContent.content,
    timings: request.eventTimings.timings,
  }));
  await toolbox.destroy();
  return JSON.stringify(shown);
})().then(done, (error) => done(`failed: ${error} ${error.stack}`));
"""

(archive,) = sys.argv[1:]
with firefox("--remote-allow-system-access") as marionette:
    marionette.command("Marionette:SetContext", value="chrome")
    text = Path(archive).read_text(encoding="utf-8")
    print(marionette.command("WebDriver:ExecuteAsyncScript", script=SCRIPT, args=[text])["value"])
