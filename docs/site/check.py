"""Check of the built site: each page is opened from its file, at two widths, in light and dark, without a network.

``python docs/site/check.py FOLDER`` exits with 1 where a page asks for anything outside its folder, writes an error to
the console, leaves a formula or a figure undrawn, is wider than the window, or has a link that leads nowhere, and where
a figure stays as it is when one of its parameters is moved.
``--pictures FOLDER PAGE …`` writes pictures of pages, in the four looks.
"""

import argparse
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from browser import Browser

WIDTHS = (1400, 375)
_STATE = """(async () => {
  await window.MathJax?.startup?.promise;
  const drawn = await window.shoalFigures;
  await document.fonts.ready;
  const formulas = [...document.querySelectorAll(".math")];
  return {
    formulas: formulas.length,
    undrawn: formulas.filter((e) => !e.querySelector("mjx-container svg") || e.querySelector("[data-mml-node=merror]"))
      .map((e) => e.textContent.slice(0, 60)),
    figures: document.querySelectorAll(".shoal-chart").length,
    empty: [...document.querySelectorAll(".shoal-chart")].filter((e) => !e.querySelector("svg .mark-group")).length,
    pictures: [...document.images].filter((e) => e.complete && !e.naturalWidth).map((e) => e.src),
    wide: document.documentElement.scrollWidth,
    drawn: drawn ?? 0,
  };
})()"""
_MOVE = """(async () => {
  const still = [];
  for (const chart of document.querySelectorAll(".shoal-chart")) {
    const controls = {};
    for (const input of chart.querySelectorAll("input")) (controls[input.name] ??= []).push(input);
    for (const [name, inputs] of Object.entries(controls)) {
      const before = chart.querySelector("svg")?.outerHTML, [first] = inputs;
      if (first.type === "range") {
        first.value = Number(first.value) === Number(first.max) ? first.min : first.max;
        first.dispatchEvent(new Event("input", { bubbles: true }));
      } else inputs.find((input) => !input.checked).click();
      await new Promise((done) => setTimeout(done, 200));
      if (chart.querySelector("svg")?.outerHTML === before) still.push(`${chart.ariaLabel?.slice(0, 60)} ${name}`);
    }
  }
  return still;
})()"""
_SETTLE = "new Promise((done) => setTimeout(done, 250)).then(() => window.shoalFigures)"


class _Page(HTMLParser):
    """Anchors and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: Counter[str] = Counter()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element's anchors and addresses."""
        values = dict(attrs)
        self.anchors.update(filter(None, (values.get("id"), values.get("name") if tag == "a" else None)))
        for name in ("href", "src"):
            if (value := values.get(name)) is not None and tag != "base":
                self.links.append(value)


def broken_links(folder: Path) -> list[str]:
    """Links of the pages in a folder that lead to no file or anchor of it, and anchors that a page has twice."""
    pages = {path.resolve(): _Page(path.read_text("utf-8")) for path in sorted(folder.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        faults += [f"{name}: anchor {anchor!r} is there {n} times" for anchor, n in page.anchors.items() if n > 1]
        for link in sorted(set(page.links)):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                faults.append(f"{name}: {link} leads to no file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                faults.append(f"{name}: {link} leads to no anchor")
    return faults


def seen_faults(browser: Browser, page: Path, counts: Counter[str]) -> list[str]:
    """Faults of a page in the four looks; what is drawn is added to ``counts``."""
    browser.look(WIDTHS[0], dark=False)
    browser.open(page.resolve().as_uri())
    faults: list[str] = []
    try:
        for width in WIDTHS:
            for dark in (False, True):
                state = _faults_of_look(browser, width, dark, faults)
        faults += [f"a parameter moves nothing in: {label}" for label in browser.run(_MOVE)]
        counts.update(formulas=state["formulas"], figures=state["figures"])
    except RuntimeError as error:  # a script of the page
        faults.append(f"script: {str(error).splitlines()[0]}")
    counts.update(pages=1)
    return [*faults, *_events(browser.events, counts)]


def _faults_of_look(browser: Browser, width: int, dark: bool, faults: list[str]) -> dict[str, Any]:
    """Add the faults of a page at a width, in light or dark; return its state."""
    browser.look(width, dark)
    browser.run(_SETTLE)
    state: dict[str, Any] = browser.run(_STATE)
    look = f"{width} px, {'dark' if dark else 'light'}"
    faults += [f"{look}: formula not drawn: {text}" for text in state["undrawn"]]
    faults += [f"{look}: {state['empty']} figures not drawn"] * bool(state["empty"])
    faults += [f"{look}: picture missing: {address}" for address in state["pictures"]]
    faults += [f"{look}: {state['wide']} pixels wide, wider than the window"] * (state["wide"] > width)
    return state


def _events(events: list[dict[str, Any]], counts: Counter[str]) -> list[str]:
    """Requests to the outside, and errors and warnings of the console."""
    faults = []
    for event in events:
        method, values = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            address = values["request"]["url"]
            counts["requests"] += 1
            faults += [f"asks for {address}"] * (not re.match(r"file:|data:|blob:|about:", address))
        elif method == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            faults.append(f"exception: {details.get('exception', {}).get('description', details['text'])[:200]}")
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            faults.append(f"console: {' '.join(str(part.get('value', '')) for part in values['args'])[:200]}")
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            faults.append(f"log: {values['entry']['text'][:200]} {values['entry'].get('url', '')}")
    return faults


def take_pictures(browser: Browser, pages: list[Path], folder: Path) -> None:
    """Write pictures of pages in the four looks."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        for width in WIDTHS:
            for dark in (False, True):
                browser.look(width, dark)
                browser.open(page.resolve().as_uri())
                browser.run(_SETTLE)
                browser.run(_STATE)
                name = f"{page.parent.name}-{page.stem}-{width}-{'dark' if dark else 'light'}.png"
                browser.picture(folder / name)


def main(words: list[str]) -> int:
    """Check a built site, or take pictures of some of its pages; return the exit code."""
    parser = argparse.ArgumentParser(description="Check the built documentation.")
    parser.add_argument("folder", type=Path, help="the site, build/docs/html")
    parser.add_argument("--pictures", type=Path, help="write pictures into this folder instead of checking")
    parser.add_argument("pages", nargs="*", help="pages, relative to the site; all when not given")
    options = parser.parse_intermixed_args(words)
    pages = [options.folder / name for name in options.pages] or sorted(options.folder.rglob("*.html"))
    if not pages or not all(page.is_file() for page in pages):
        raise SystemExit(f"{options.folder} holds no such pages; make docs builds them")
    counts: Counter[str] = Counter()
    faults = [] if options.pictures else broken_links(options.folder)
    with Browser() as browser:
        if options.pictures:
            take_pictures(browser, pages, options.pictures)
            return 0
        for page in pages:
            faults += [f"{page.relative_to(options.folder)}: {fault}" for fault in seen_faults(browser, page, counts)]
    for fault in faults:
        print(fault)
    print(
        f"{counts['pages']} pages at {' and '.join(map(str, WIDTHS))} pixels, light and dark: {counts['formulas']} "
        f"formulas, {counts['figures']} figures, {counts['requests']} requests of files, {len(faults)} faults"
    )
    return 1 if faults or not counts["pages"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
