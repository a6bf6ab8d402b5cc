"""The pieces a report is laid out of, which `html` and `markdown` each write in their own way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """A paragraph; a warning stands out."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; a cell's second line, if any, is small print.

    Attributes:
        columns: Their headings.
        rows: The first cell of each is its heading.
        groups: A heading over several columns, and how many: together as many as there are columns.
        words: Columns of text, by number; the others hold numbers.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    groups: Sequence[tuple[str, int]] = ()
    words: Sequence[int] = (0,)

    def _repr_markdown_(self) -> str:
        """As Markdown has it: what a notebook shows."""
        rule = [":--" if number in self.words else "--:" for number in range(len(self.columns))]
        cells = [[cell.replace("|", r"\|").replace("\n", "<br>") for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in [list(self.columns), rule, *cells])


@dataclass(frozen=True)
class Chart:
    """A figure with its caption.

    Attributes:
        name: Of its file, without a suffix; a number follows where several charts have one name.
        caption: What it shows.
        figure: Drawn by `fcnseg.report.charts`.
        wide: Takes the page's whole width, and scrolls where that is too little.
    """

    name: str
    caption: str
    figure: Figure
    wide: bool = False


@dataclass(frozen=True)
class Gallery:
    """An image, its truth and what every model makes of it.

    Attributes:
        name: Of the image.
        image: (3, H, W) uint8.
        truth: (H, W) labels, 255 for void.
        predictions: Model to (H, W) labels.
    """

    name: str
    image: Tensor
    truth: Tensor
    predictions: Mapping[str, Tensor]


@dataclass(frozen=True)
class Folded:
    """Blocks that a page shows when asked to."""

    title: str
    blocks: "Sequence[Block]"


Block = Text | Table | Chart | Gallery | Folded


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]
