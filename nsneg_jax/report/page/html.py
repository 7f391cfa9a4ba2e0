"""Pieces of a page: every text from a file is escaped here."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

_PNG = b"\x89PNG"
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_CELLS = re.compile(r"(?<!\\)\|")


def page(title: str, sections: Mapping[str, tuple[str, str]], intro: str) -> str:
    """Returns a whole page.

    Args:
        title: title, plain text.
        sections: heading, plain text, and contents, HTML, by anchor.
        intro: HTML before the first section.
    """
    folder = files("nsneg_jax.report.page")
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    links = "".join(
        f'<li><a href="#{anchor}">{escape(heading)}</a></li>'
        for anchor, (heading, _) in sections.items()
    )
    body = "".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
        f'<h2 id="{anchor}-title">{escape(heading)}</h2>{contents}</section>'
        for anchor, (heading, contents) in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the contents</a>\n'
        f"<header><h1>{escape(title)}</h1>{intro}</header>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        f'<main id="main">{body}</main>\n'
        '<div id="tip" role="status" aria-live="polite" hidden></div>\n'
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Returns a paragraph of plain text; `kind` is its class in the style sheet."""
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escape(text)}</p>"


def heading(text: str) -> str:
    """Returns a heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def definitions(entries: Mapping[str, str]) -> str:
    """Returns terms and what they are, plain texts; those without a text are left out."""
    parts = (
        f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>"
        for term, text in entries.items()
        if text
    )
    return f"<dl>{''.join(parts)}</dl>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Returns a table of plain texts, the first cell of a row being its heading."""
    return _table(
        [escape(cell) for cell in header],
        [[escape(c) for c in row] for row in rows],
        escape(caption),
    )


def picture(data: bytes, alt: str, size: int = 0, kind: str = "") -> str:
    """Returns an image that the page holds.

    Args:
        data: a JPEG or PNG file.
        alt: what it shows, plain text.
        size: width and height in pixels of the page; 0 for its own.
        kind: its class in the style sheet.
    """
    form = "png" if data.startswith(_PNG) else "jpeg"
    sides = f' width="{size}" height="{size}"' if size else ""
    named = f' class="{kind}"' if kind else ""
    text = base64.b64encode(data).decode("ascii")
    return f'<img{named} src="data:image/{form};base64,{text}" alt="{escape(alt)}"{sides}>'


def from_markdown(text: str) -> str:
    """Returns the tables, lists and paragraphs of a report as HTML.

    Args:
        text: blocks with an empty line between them: tables, lists with '* ', and paragraphs with
            bold parts.
    """
    parts = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if block.startswith("|"):
            header, _, *rows = [_cells(line) for line in lines]
            parts.append(_table(header, rows, ""))
        elif block.startswith("* "):
            items = "".join(f"<li>{_inline(line.removeprefix('* '))}</li>" for line in lines)
            parts.append(f'<ul class="notes">{items}</ul>')
        elif block.endswith(":") and len(lines) == 1:
            parts.append(f"<h3>{_inline(block.removesuffix(':'))}</h3>")
        else:
            parts.append(f"<p>{_inline(block)}</p>")
    return "".join(parts)


def _cells(line: str) -> list[str]:
    cells = _CELLS.split(line.strip().removeprefix("|").removesuffix("|"))
    return [_inline(cell.strip().replace("\\|", "|")) for cell in cells]


def _inline(text: str) -> str:
    return _BOLD.sub(r"<strong>\1</strong>", escape(text))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    named = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{caption or "Table"}">'
        f"<table>{named}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
