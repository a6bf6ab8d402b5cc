"""The report as one HTML page that needs nothing beside it."""

import base64
import io
from collections.abc import Sequence
from html import escape
from itertools import accumulate
from pathlib import Path

from PIL import Image

from fcnseg.pictures import Picture, colour, legend, overlay, photograph
from fcnseg.report import charts
from fcnseg.report.document import Block, Chart, Folded, Gallery, Section, Table, Text

STYLE = Path(__file__).with_name("page.css")


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    links = "".join(f'<a href="#s{n}">{escape(section.title)}</a>' for n, section in enumerate(sections))
    parts = "\n".join(_section(n, section) for n, section in enumerate(sections))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(lead)}</p><nav aria-label="Sections">{links}</nav></header>
<main>
{parts}
</main>
</body>
</html>
"""


def _section(number: int, section: Section) -> str:
    inside, small = [], []
    for block in section.blocks:  # charts that follow one another stand side by side
        if isinstance(block, Chart) and not block.wide:
            small.append(_block(block))
            continue
        inside += _grid(small)
        inside.append(_block(block))
        small = []
    inside += _grid(small)
    return f'<section id="s{number}"><h2>{escape(section.title)}</h2>\n{"".join(inside)}</section>'


def _grid(small: Sequence[str]) -> list[str]:
    return [f'<div class="grid">{"".join(small)}</div>'] if small else []


def _block(block: Block) -> str:
    match block:
        case Text():
            return f"<p{' class=warning' if block.warning else ''}>{escape(block.text)}</p>\n"
        case Table():
            return _table(block)
        case Chart():
            return _chart(block)
        case Gallery():
            return _gallery(block)
        case Folded():
            inside = "".join(map(_block, block.blocks))
            return f"<details><summary>{escape(block.title)}</summary>{inside}</details>\n"


def _table(table: Table) -> str:
    starts = set(accumulate((span for _, span in table.groups), initial=0)) - {0, len(table.columns)}

    def kind(number: int) -> str:
        names = [name for name, holds in (("word", number in table.words), ("start", number in starts)) if holds]
        return f' class="{" ".join(names)}"' if names else ""

    def cell(number: int, text: str) -> str:
        main, _, small = text.partition("\n")
        inside = escape(main) + (f"<small>{escape(small)}</small>" if small else "")
        return f'<th scope="row">{inside}</th>' if number == 0 else f"<td{kind(number)}>{inside}</td>"

    groups = "".join(f'<th colspan="{span}" scope="colgroup">{escape(name)}</th>' for name, span in table.groups)
    heads = "".join(f'<th scope="col"{kind(n)}>{escape(name)}</th>' for n, name in enumerate(table.columns))
    rows = "\n".join(f"<tr>{''.join(cell(n, text) for n, text in enumerate(row))}</tr>" for row in table.rows)
    above = f'<tr class="groups">{groups}</tr>' if groups else ""
    head = f"<thead>{above}<tr>{heads}</tr></thead>"
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>\n{rows}\n</tbody></table></div>\n'


def _chart(chart: Chart) -> str:
    drawing = charts.svg(chart.figure).replace("<svg", f'<svg role="img" aria-label="{escape(chart.caption)}"', 1)
    kind = "chart wide" if chart.wide else "chart"
    caption = f"<figcaption>{escape(chart.caption)}</figcaption>"
    return f'<figure class="{kind}"><div class="scroll">{drawing}</div>{caption}</figure>\n'


def _gallery(gallery: Gallery) -> str:
    shown = [
        _card("image and truth", gallery, (photograph(gallery.image), colour(gallery.truth))),
        *(
            _card(title, gallery, (colour(labels), overlay(gallery.image, labels)))
            for title, labels in gallery.predictions.items()
        ),
    ]
    shades = legend([gallery.truth, *gallery.predictions.values()])
    keys = "".join(f'<li><i style="background:{shade}"></i>{escape(name)}</li>' for name, shade in shades.items())
    return (
        f'<h3>{escape(gallery.name)}</h3><div class="grid cards">{"".join(shown)}</div><ul class="legend">{keys}</ul>\n'
    )


def _card(title: str, gallery: Gallery, pictures: Sequence[Picture]) -> str:
    what = ("photograph", "truth") if title == "image and truth" else ("mask", "mask over the photograph")
    images = "".join(
        f'<img src="{_address(picture)}" alt="{escape(f"{gallery.name}: {title}, {name}")}">'
        for picture, name in zip(pictures, what, strict=True)
    )
    return f"<figure>{images}<figcaption>{escape(title)}</figcaption></figure>"


def _address(picture: Picture) -> str:
    """A picture as an address that holds it; WebP without loss is small for masks and photographs alike."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "webp", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
