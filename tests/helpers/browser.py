"""Pages as a browser shows them: Debian's chromium without a window or a network; tests are skipped where it is absent."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom",
)  # fmt: skip
_MEASURE = """
const found = {};
for (const width of WIDTHS) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.srcdoc = PAGE;
  frame.onload = () => {
    const page = frame.contentDocument;
    const sizes = (query) => [...page.querySelectorAll(query)].map((part) => part.getBoundingClientRect());
    found[width] = {
      overflow: page.documentElement.scrollWidth - width,
      lines: sizes("svg[role=img] path:not(.dots path)").filter((size) => size.width > 20).length,
      letters: Math.min(...sizes("svg[role=img] text").map((size) => size.height)),
      pictures: [...page.images].filter((picture) => picture.naturalWidth > 0).length,
    };
    if (Object.keys(found).length === WIDTHS.length) document.title = JSON.stringify(found);
  };
  document.body.append(frame);
}
"""


def _browse(address: str, folder: Path) -> str:
    """Return the document as a browser has it once its scripts have run; fails where the console says anything."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed")
    words = [chromium, *_FLAGS, f"--user-data-dir={folder / 'profile'}", address]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def dump(page: Path, folder: Path, part: str = "", script: str = "") -> str:
    """Return the document that a browser makes of a page.

    Args:
        page: the file.
        folder: for the browser's profile.
        part: of the address, after the file's name, as "#month=6..8".
        script: runs in the page besides its own.
    """
    shown = page
    if script:
        shown = folder / f"with_script_{page.name}"
        text = page.read_text(encoding="utf-8")
        shown.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return _browse(shown.resolve().as_uri() + part, folder)


def look_at(page: Path, folder: Path, widths: tuple[int, ...] = (390, 1280)) -> dict[int, dict[str, Any]]:
    """Return what a browser shows of a page at some widths: by how much it is too wide, lines and letters of its charts, pictures.

    Fails where the console of the browser says anything.
    """
    # Within a script element only `</` ends it.
    text = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/").replace("<!--", "<\\!--")
    script = _MEASURE.replace("WIDTHS", json.dumps(widths)).replace("PAGE", text)
    wrapper = folder / "wrapper.html"
    wrapper.write_text(f"<!doctype html><meta charset=utf-8><title></title><body><script>{script}</script>", encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", _browse(wrapper.resolve().as_uri(), folder), re.S)
    assert title is not None
    return {int(width): values for width, values in json.loads(unescape(title[1])).items()}
