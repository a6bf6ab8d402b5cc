"""The report as Markdown, its pictures in files beside it."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from urllib.parse import quote

from fcnseg.report import charts
from fcnseg.report.document import Block, Chart, Folded, Gallery, Section, Table, Text


def write(folder: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write `folder/report.md` and `folder/figures/*.png`."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    parts, taken = [f"# {title}", lead], set[str]()
    for section in sections:
        parts += [f"## {section.title}", *(_block(block, folder, taken) for block in section.blocks)]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _block(block: Block, folder: Path, taken: set[str]) -> str:
    """The block as text; its pictures get names that are not yet `taken`."""
    match block:
        case Text():
            return f"> **Note.** {block.text}" if block.warning else block.text
        case Table():
            return block._repr_markdown_()
        case Chart():
            return f"{_picture(block, folder, taken)}\n\n*{block.caption}*"
        case Gallery():
            return _block(_as_chart(block), folder, taken)
        case Folded():
            inside = "\n\n".join(_block(inner, folder, taken) for inner in block.blocks)
            return f"<details><summary>{block.title}</summary>\n\n{inside}\n\n</details>"


def _picture(chart: Chart, folder: Path, taken: set[str]) -> str:
    names = (chart.name if number == 1 else f"{chart.name}-{number}" for number in count(1))
    name = next(name for name in names if name not in taken)  # charts of two test sets may have one
    taken.add(name)
    charts.picture(chart.figure).save(folder / "figures" / f"{name}.png")
    return f"![{chart.caption}](figures/{quote(name)}.png)"


def _as_chart(gallery: Gallery) -> Chart:
    figure = charts.gallery(gallery.image, gallery.truth, gallery.predictions)
    caption = f"{gallery.name}: the image, its truth and every model's mask; below, the masks over the image."
    return Chart(f"masks-{gallery.name}", caption, figure)
