"""The parts of a page with pictures: training views, nearest neighbours, cue conflicts."""

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from nsneg_jax.files import write_whole
from nsneg_jax.report import sheets
from nsneg_jax.report.page import conflicts, html
from nsneg_jax.report.page.gallery import Gallery, agreement, chosen, encoded, neighbours
from nsneg_jax.report.page.runs import Run
from nsneg_jax.training.workdir import VIEWS

_FORMATS = ("PNG", "JPEG")  # of what this package writes and reads back
_SHOWN = 88  # side of a picture in pixels of the page
_SMALL = 64  # pixels; pictures of fewer are enlarged without smoothing
_QUERIES, _NEIGHBOURS = 8, 6

# Example of each answer that is shown, its name and what was answered, by the cue it follows.
Conflicts = Mapping[str, Sequence[tuple[conflicts.Example, str]]]


def views(run: Run) -> list[tuple[str, list[bytes]]]:
    """Returns the views of the first images by kind, as `pictures/views.png` shows them.

    Returns:
        Titles, such as 'query', 'key' and 'patch negative', and the pictures; [] without any.
    """
    path, side = run.path / VIEWS, _number(run.config, "data", "image_size")
    try:
        sheet = Image.open(path, formats=_FORMATS).convert("RGB")
    except OSError:
        return []
    columns = sheets.tiles(sheet, side) if side else []
    names = _names_of_views(run, len(columns))
    return [
        (name, [encoded(_shrunk(tile, side)) for tile in column])
        for name, column in zip(names, columns, strict=True)
    ]


def views_sheet(run: Run) -> str:
    """Returns the views of a run as a table: a row per kind, a column per image; '' without any."""
    return rows_sheet(views(run), f"Training views of {run.name}")


def rows_sheet(rows: Sequence[tuple[str, Sequence[bytes]]], title: str) -> str:
    """Returns versions of images as a table: a row per version, a column per image; '' for none.

    Args:
        rows: name and pictures of each version, in the order of the images.
        title: what is shown, for those who do not see it.
    """
    texts = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f"<td>{_picture(data, f'{name} of image {place}')}</td>"
            for place, data in enumerate(shown, 1)
        )
        + "</tr>"
        for name, shown in rows
    ]
    return _sheet(texts, title) if texts else ""


def neighbours_sheet(gallery: Gallery, name: str) -> str:
    """Returns some images with their nearest neighbours as a table; '' without pictures."""
    if not gallery.pictures:
        return ""
    queries = chosen(gallery, _QUERIES)
    rows = []
    for query, near in zip(queries, neighbours(gallery, queries, _NEIGHBOURS), strict=True):
        own = gallery.class_of(query)
        cells = [_cell(gallery, query, "query", f"image{_of(own)}")]
        for place, other in enumerate(near, 1):
            theirs = gallery.class_of(other)
            kind = "same" if own and theirs == own else "other" if own else ""
            cells.append(_cell(gallery, other, kind, f"neighbour {place}{_of(theirs)}"))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{i}</th>' for i in range(1, _NEIGHBOURS + 1))
    rows.insert(0, f'<tr><th scope="col">image</th>{head}</tr>')
    share = agreement(gallery)
    about = f"{gallery.about}."
    if share is not None:
        about += f" The nearest neighbour has the class of the image for {share:.1f} % of them."
    return _sheet(rows, f"Nearest neighbours of {name}") + html.paragraph(about, "note")


def conflicts_sheets(found: Conflicts) -> str:
    """Returns examples of cue conflicts with their answers, by the cue that was followed."""
    parts = []
    for cue in conflicts.CUES:
        examples = found.get(cue, ())
        if not examples:
            continue
        figures = "".join(
            f'<figure class="{cue}">'
            + _picture(each.picture, f"shape of {each.shape}, texture of {each.texture}")
            + f"<figcaption>answer: <b>{escape(answer)}</b><br>shape: {escape(each.shape)}<br>"
            f"texture: {escape(each.texture)}</figcaption></figure>"
            for each, answer in examples
        )
        title = "Neither" if cue == "neither" else f"Answered by the {cue}"
        parts.append(f'{html.heading(title)}<div class="conflicts">{figures}</div>')
    return "".join(parts)


def save_sheets(
    runs: Sequence[Run], galleries: Mapping[str, Gallery], found: Mapping[str, Conflicts], to: Path
) -> None:
    """Writes the same pictures as PNGs to the folder `to`."""
    for run in runs:
        shown = views(run)
        if shown:
            _save(dict(shown), to / f"views-{_slug(run.name)}.png")
    for name, gallery in galleries.items():
        if gallery.pictures:
            queries = chosen(gallery, _QUERIES)
            near = neighbours(gallery, queries, _NEIGHBOURS)
            columns = {"image": [gallery.pictures[query] for query in queries]}
            for place in range(len(near[0])):
                columns[f"nearest {place + 1}"] = [gallery.pictures[row[place]] for row in near]
            _save(columns, to / f"neighbours-{_slug(name)}.png")
    for name, by_cue in found.items():
        columns = {cue: [example.picture for example, _ in by_cue[cue]] for cue in by_cue}
        _save({cue: each for cue, each in columns.items() if each}, to / f"{_slug(name)}.png")


def _save(columns: Mapping[str, Sequence[bytes]], path: Path) -> None:
    rows = max(map(len, columns.values()))
    opened = {title: [_pixels(data) for data in shown] for title, shown in columns.items()}
    side = max(max(tile.shape[:2]) for shown in opened.values() for tile in shown)
    arrays = {}
    for title, shown in opened.items():
        array = np.full((rows, side, side, 3), 255, np.uint8)
        for place, tile in enumerate(shown):
            array[place, : tile.shape[0], : tile.shape[1]] = tile
        arrays[title] = array
    write_whole(path, lambda partial: sheets.grid(arrays).save(partial, "png"))


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data), formats=_FORMATS).convert("RGB"))


def _shrunk(tile: Image.Image, side: int) -> np.ndarray:
    """Undoes the enlargement of a sheet's picture, to the pixel."""
    return np.asarray(tile.resize((side, side), Image.Resampling.NEAREST))


def _names_of_views(run: Run, columns: int) -> list[str]:
    """Returns a name per column of a run's picture."""
    negatives = run.config.get("negatives", {})
    kind, text = str(negatives.get("kind", "")), str(negatives.get("more", ""))
    more = _more(text) if text else []
    textures = int("texture" in kind)
    patches = columns - 2 - textures - len(more)
    names = ["query", "key"]
    names += ["patch negative" + (f" {m}" if patches > 1 else "") for m in range(1, patches + 1)]
    names += [f"{name} negative" for name in more]
    return [*names, *["texture negative"] * textures][:columns]


def _more(text: str) -> list[str]:
    """Returns the names in `negatives.more`, numbered, the texture last."""
    from nsneg_jax.methods.negatives import numbered, parse  # JAX, which other pages do without

    parts = parse(text, known=None)  # a config of the user's may have registered others
    names = [part.name for part in parts for _ in range(part.count)]
    return numbered(sorted(names, key="texture".__eq__))


def _sheet(rows: Sequence[str], title: str) -> str:
    label = escape(title)
    return (
        f'<div class="sheet" tabindex="0" role="group" aria-label="{label}">'
        f"<table><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(gallery: Gallery, place: int, kind: str, alt: str) -> str:
    label = f"<small>{escape(gallery.class_of(place))}</small>"
    named = f' class="{kind}"' if kind else ""
    return f"<td{named}>{_picture(gallery.pictures[place], alt)}{label}</td>"


def _picture(data: bytes, alt: str) -> str:
    small = max(Image.open(io.BytesIO(data), formats=_FORMATS).size) <= _SMALL
    return html.picture(data, alt, _SHOWN, "pixels" if small else "")


def _of(name: str) -> str:
    return f", {name}" if name else ""


def _number(config: Mapping, section: str, field: str) -> int:
    value = config.get(section, {}).get(field, 0)
    return value if isinstance(value, int) else 0


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
