"""A hook of mkdocs: puts what lies outside of docs/ on the site, so that links to it work.

Pages link to files of the checkout as GitHub shows them (`../CHANGELOG.md`). On the site Markdown
files and notebooks become pages, other files are copied to files/, and the links are rewritten.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# a link or a picture, and its target without the anchor
LINK = re.compile(r"(\]\()([^()\s#]+)((?:#[^()\s]*)?\))")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
RENAMED = {"README.md": "project.md"}  # docs/README.md is the home page
_SOURCES: dict[str, Path] = {}  # by place on the site, of what is added


def github_anchor(heading: str, separator: str = "-") -> str:
    """Returns the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", separator)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Makes the anchors of headings those of GitHub."""
    config.mdx_configs["toc"]["slugify"] = github_anchor
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what pages link to outside of docs/, and what the navigation names of it."""
    _SOURCES.clear()
    for path in sorted(_outside()):
        uri = _uri(path)
        _SOURCES[uri] = path
        if uri.endswith(".md"):
            level = InclusionLevel.NOT_IN_NAV if path.is_dir() else InclusionLevel.INCLUDED
            files.append(File.generated(config, uri, content=_text(path), inclusion=level))
        elif path.suffix != ".md":
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links of a page at the pages and files of the site."""
    uri = page.file.src_uri
    source = _SOURCES.get(uri, DOCS / uri)
    base = (source if source.is_dir() else source.parent).resolve()

    def rewritten(match: re.Match) -> str:
        target = _target(base, match[2])
        if target is None:
            return match[0]
        relative = os.path.relpath(_uri(target), os.path.dirname(uri) or ".")
        return f"{match[1]}{relative}{match[3]}"

    return _outside_of_code(markdown, lambda text: LINK.sub(rewritten, text))


def _outside_of_code(text: str, change) -> str:
    parts, last = [], 0
    for code in CODE.finditer(text):
        parts += [change(text[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, change(text[last:])])


def _target(base: Path, link: str) -> Path | None:
    """Returns the file that a relative link names; None for other links and what is not there."""
    if re.match(r"\w+:|/", link):
        return None
    path = (base / link).resolve()
    return path if path.exists() and path.is_relative_to(ROOT) else None


def _uri(path: Path) -> str:
    """Returns the place of a file on the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        return f"files/{name}/index.md"
    if path.suffix == ".ipynb":
        return f"{path.stem}.md"
    if path.suffix == ".md":
        return RENAMED.get(name, path.name.lower())
    return f"files/{name}"


def _outside() -> set[Path]:
    """Returns what to add: files and folders outside of docs/ that pages link to, and theirs."""
    found: set[Path] = set()
    ahead = sorted(DOCS.glob("*.md"))
    while ahead:
        page = ahead.pop()
        for path in _linked(page):
            if not path.is_relative_to(DOCS) and path not in found:
                found.add(path)
                if path.is_dir() or path.suffix in (".md", ".ipynb"):
                    ahead.append(path)
    return found


def _linked(page: Path) -> Iterator[Path]:
    base = (page if page.is_dir() else page.parent).resolve()
    for _, link, _ in LINK.findall(CODE.sub("", _text(page))):
        path = _target(base, link)
        if path is not None:
            yield path


def _text(path: Path) -> str:
    """Returns a page's Markdown: that of a file, of a notebook, or a list of a folder's files."""
    if path.is_dir():
        names = sorted(each.name for each in path.iterdir() if each.is_file())
        links = "\n".join(f"* [{name}]({name})" for name in names if not name.startswith("_"))
        return f"# {path.relative_to(ROOT).as_posix()}/\n\n{links}\n"
    if path.suffix == ".ipynb":
        return _of_notebook(path)
    return path.read_text(encoding="utf-8")


def _of_notebook(path: Path) -> str:
    """Returns the cells of a notebook and what they put out."""
    lines = [""]
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        lines.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text" in output:
                lines.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            elif "image/png" in data:
                alt = output.get("metadata", {}).get("alt", "The cell's picture")
                picture = "".join(data["image/png"]).replace("\n", "")
                lines.append(f'<img alt="{alt}" src="data:image/png;base64,{picture}">')
    from_file = f"The notebook is `{path.relative_to(ROOT).as_posix()}` of the checkout."
    return "\n\n".join([*lines, "---", from_file])
