"""Pages in a browser: they render, ask for nothing, complain of nothing, and assistive technology can read them."""

from __future__ import annotations

import http.server
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import volatility3_kdump
from tests.pages.chromium import Chromium, find
from tests.pages.test_batch_page import line, page_of
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.pages.crash import crash_page

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(find() is None, reason="no Chromium here"),
]

#: The least contrast of each text with what is behind it, by the formula of WCAG 2; bold and large text needs less.
_CONTRAST = """(() => {
  const channel = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [red, green, blue] = numbers(colour).map(value => channel(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if ((numbers(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  let least = [99, ""];
  for (const element of document.body.querySelectorAll("*:not(svg *)")) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    const [low, high] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < least[0]) least = [contrast, element.outerHTML.slice(0, 120)];
  }
  return least;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find()
    assert program is not None
    chromium = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory, sample: Callable[..., Path], request: pytest.FixtureRequest
) -> Path:
    """A directory with a page of each kind."""
    directory = tmp_path_factory.mktemp("pages")
    for name, path in (("waits", sample(scene="waits")), ("small", sample(4))):
        target = volatility3_kdump.open(path)
        (directory / f"{name}.html").write_text(crash_page(target, analyze_crash(target)), encoding="utf-8")
    lines = [line(f"2024-03-0{n % 9 + 1}T10:00:00+00:00", n, machine=f"m{n % 3}") for n in range(20)]
    (directory / "batch.html").write_text(page_of(*lines), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def server(pages: Path) -> Iterator[tuple[str, list[str]]]:
    """(address, paths that were asked for) of a server of the pages."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(pages))  # type: ignore[arg-type]

        def log_message(self, form: str, *arguments: object) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["waits", "small", "batch"])
def test_the_page_in_a_browser(
    browser: Chromium, server: tuple[str, list[str]], name: str, scheme: str, tmp_path: Path
) -> None:
    address, asked = server
    asked.clear()
    browser.show(f"{address}/{name}.html", scheme, script=False)
    assert browser.complaints() == []
    assert browser.requests() == [f"{address}/{name}.html"] and asked == [f"/{name}.html"]
    picture = browser.screenshot()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    contrast, where = browser.evaluate(_CONTRAST)
    assert contrast >= 4.5, where
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("name", ["waits", "small", "batch"])
def test_what_assistive_technology_sees(browser: Chromium, pages: Path, name: str) -> None:
    browser.show((pages / f"{name}.html").as_uri())
    nodes = browser.tree()
    named: dict[str, list[str]] = {}
    for node in nodes:
        named.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", "").strip())
    assert len(named["heading"]) > 4 and all(named["heading"])
    assert named["table"] and all(named["table"])
    assert all(named.get("image", ["x"])) and all(named.get("img", ["x"]))
    assert all(named["link"]) and all(named["region"]) and named["navigation"] == ["Contents"]
    levels = browser.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert browser.evaluate(
        "[...document.querySelectorAll('table')].every(t => t.caption && t.querySelector('thead th[scope=col]'))"
    )


@pytest.mark.parametrize("width", [360, 820, 1600])
def test_no_width_needs_scrolling_sideways(browser: Chromium, pages: Path, width: int) -> None:
    for name in ("waits", "small", "batch"):
        browser.show((pages / f"{name}.html").as_uri(), width=width)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, name


def test_the_page_can_be_printed(browser: Chromium, pages: Path) -> None:
    browser.show((pages / "waits.html").as_uri())
    assert browser.printed().startswith(b"%PDF-")


def test_a_script_that_got_in_would_not_run(browser: Chromium, pages: Path, tmp_path: Path) -> None:
    """The policy holds by itself: the page is given a script, an image and a style that it does not have."""
    text = (pages / "small.html").read_text(encoding="utf-8")
    injected = "<script>document.title='ran'</script><img src='http://127.0.0.1:9/x'><p style='color:red' id='p'>x</p>"
    path = tmp_path / "injected.html"
    path.write_text(text.replace("<main>", f"<main>{injected}"), encoding="utf-8")
    browser.show(path.as_uri())
    assert browser.evaluate("document.title") != "ran"
    assert browser.evaluate("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"
    assert len(browser.complaints()) >= 3
