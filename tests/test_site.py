"""The documentation as a site: it builds without a warning, and its pages load nothing else."""

import functools
import html.parser
import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import browser
import pytest

pytest.importorskip("material", reason="the site is built by mkdocs-material")

ROOT = Path(__file__).parents[1]
# what a page loads, unlike links, which a reader follows
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
NOT_LOADED = {"canonical", "prev", "next"}  # kinds of <link>


class Page(html.parser.HTMLParser):
    """What a page loads, and its elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.without_alt = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.without_alt += tag == "img" and not values.get("alt")
        if tag in LOADED and values.get("rel") not in NOT_LOADED and LOADED[tag] in values:
            self.loaded.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_is_whole_and_needs_no_network(site):
    pages = {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}
    sources = {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*.md")}
    assert sources - {"README.html"} <= pages.keys()
    assert {"index.html", "project.html", "changelog.html", "contributing.html"} <= pages.keys()
    assert {"what-the-negatives-do.html", "a-robustness-table.html"} <= pages.keys()
    for name, page in pages.items():
        outside = [link for link in page.loaded if re.match(r"(https?:)?//", link)]
        assert not outside and not page.without_alt, (name, outside)
        for link in page.loaded:
            if not link.startswith("data:"):
                target = (site / name).parent / re.split("[?#]", link)[0]
                assert name == "404.html" or target.exists(), (name, link)
    for style in site.rglob("*.css"):
        addresses = re.findall(r"url\(['\"]?([^'\")]+)", style.read_text(encoding="utf-8"))
        assert not [each for each in addresses if re.match(r"(https?:)?//", each)], style.name


def test_tables_of_the_pages_are_tables_of_the_site(site):
    for source in (ROOT / "docs").glob("*.md"):
        text = re.sub(r"^```.*?^```", "", source.read_text(), flags=re.DOTALL | re.MULTILINE)
        name = "index" if source.stem == "README" else source.stem
        shown = Page(site / f"{name}.html").tags.count("table")
        assert shown == len(re.findall(r"^\|(?:[ :]*-+[ :]*\|)+$", text, re.MULTILINE)), name


@pytest.mark.slow
@pytest.mark.skipif(bool(browser.MISSING), reason=f"{browser.MISSING} is not installed")
def test_a_browser_shows_it_without_an_error(site):
    """Each page of a few, wide and narrow, light and dark, over HTTP from this process."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with browser.browsing() as window:
            for page in ("index", "faq", "fields", "recipes", "what-the-negatives-do"):
                for width, scheme in ((1400, "light"), (390, "dark")):
                    window.emulate(width, scheme)
                    window.get(f"{address}/{page}.html")
                    loaded = window.run(
                        "return performance.getEntriesByType('resource').map(each => each.name)"
                    )
                    assert all(each.startswith(address) for each in loaded), page
                    wide = window.run("return document.documentElement.scrollWidth")
                    assert wide <= width, (page, width, wide)
                    assert window.errors() == [], page
    finally:
        server.shutdown()
