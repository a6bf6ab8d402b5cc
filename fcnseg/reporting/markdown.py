"""The report as Markdown, its pictures in files beside it."""

from collections.abc import Sequence
from pathlib import Path

from fcnseg import charts
from fcnseg.reporting.document import Block, Chart, Folded, Gallery, Section, Table, Text


def write(folder: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write `folder/report.md` and `folder/figures/*.png`."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    parts = [f"# {title}", lead]
    for section in sections:
        parts += [f"## {section.title}", *(_block(block, folder) for block in section.blocks)]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _block(block: Block, folder: Path) -> str:
    match block:
        case Text():
            return f"> **Note.** {block.text}" if block.warning else block.text
        case Table():
            return block._repr_markdown_()
        case Chart():
            return f"{_picture(block, folder)}\n\n*{block.caption}*"
        case Gallery():
            return _block(_as_chart(block), folder)
        case Folded():
            inside = "\n\n".join(_block(inner, folder) for inner in block.blocks)
            return f"<details><summary>{block.title}</summary>\n\n{inside}\n\n</details>"


def _picture(chart: Chart, folder: Path) -> str:
    path = folder / "figures" / f"{chart.name}.png"
    charts.picture(chart.figure).save(path)
    return f"![{chart.caption}](figures/{path.name})"


def _as_chart(gallery: Gallery) -> Chart:
    figure = charts.gallery(gallery.image, gallery.truth, gallery.predictions)
    caption = f"{gallery.name}: the image, its truth and every model's mask; below, the masks over the image."
    return Chart(f"masks-{gallery.name}", caption, figure)
