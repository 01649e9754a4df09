"""Opens a page in headless Chromium, as wide as a phone, and tells what a reader would notice."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = 390
# Seconds.
PATIENCE = 120
# Written into a copy of the page, where it looks at the document after the page's own script has run.
LOOK = """
<script>
window.look = () => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const words = (cell) => cell.textContent.replace(/\\s+/g, " ").trim();
  const column = (table, place) => [...table.tBodies].map((body) => [...body.rows].map((row) =>
    row.cells[place] ? words(row.cells[place]) : null).filter((text) => text !== null));
  const tables = [...document.querySelectorAll("table.results, table.stages")].map((table) => {
    const heads = [...table.tHead.rows[0].cells];
    const place = heads.length - 1;
    const button = heads[place].querySelector("button");
    const orders = [];
    for (let i = 0; i < 2; i++) {
      button.focus();
      const reached = document.activeElement === button;
      button.click();
      orders.push({ reached, sort: heads[place].getAttribute("aria-sort"), texts: column(table, place) });
    }
    return { head: words(heads[place]), others: heads.filter((head) => head.hasAttribute("aria-sort")).length, orders };
  });
  let saved = [];
  const click = HTMLAnchorElement.prototype.click;
  HTMLAnchorElement.prototype.click = function () { saved.push([this.download, decodeURIComponent(this.href)]); };
  document.querySelectorAll("button.save").forEach((button) => button.click());
  HTMLAnchorElement.prototype.click = click;
  const wide = [...document.querySelectorAll("main *")].filter((one) => !one.closest(".scroll, pre, svg, .unseen") &&
    one.getBoundingClientRect().right > innerWidth + 0.5);
  return {
    width: innerWidth,
    scrolls: document.documentElement.scrollWidth,
    wide: wide.map((one) => `${one.tagName} ${one.className}`),
    pictures: [...document.images].map((one) => [one.alt, one.complete && one.naturalWidth > 0]),
    nameless: [...document.querySelectorAll("button, a, svg[role=img], .scroll[tabindex]")].filter((one) =>
      !(one.getAttribute("aria-label") || words(one))).map((one) => one.outerHTML.slice(0, 200)),
    unreachable: [...document.querySelectorAll(".scroll, pre")].filter((one) => one.scrollWidth > one.clientWidth &&
      one.tabIndex < 0).map((one) => one.outerHTML.slice(0, 200)),
    tables, saved,
  };
};
</script>
"""
# A window of Chromium is never narrower than 500 px; a frame may be.
FRAME = """<!doctype html><meta charset="utf-8"><iframe width="{width}" height="844" srcdoc="{page}"></iframe>
<pre id="found"></pre><script>
addEventListener("load", () => {{
  document.getElementById("found").textContent = JSON.stringify(document.querySelector("iframe").contentWindow.look());
}});
</script>"""


def look_at(page: str, folder: Path, width: int = PHONE) -> Mapping[str, Any]:
    """What `LOOK` finds, and in `console` the lines that the page wrote there.

    Skips the test where there is no Chromium.

    Args:
      folder: of the page, to which it refers, and of the browser's own files.
    """
    if BROWSER is None:
        pytest.skip("there is no Chromium: pages are not looked at in a browser")
    copy = folder / "looked_at.html"
    inside = page.replace("</body>", f"{LOOK}</body>")
    copy.write_text(FRAME.format(width=width, page=html.escape(inside)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    options += [f"--user-data-dir={folder / 'browser'}", "--allow-file-access-from-files", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [BROWSER, *options, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=PATIENCE
    )
    written = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert written and written[1], done.stderr[-3000:]
    found = json.loads(html.unescape(written[1]))
    return {**found, "console": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}
