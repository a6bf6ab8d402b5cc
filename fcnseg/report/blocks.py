"""The blocks that a report consists of, which `render` writes as HTML and as Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from fcnseg.data.dataset import Classes
from fcnseg.data.pictures import Picture, Pixels, legend, panel, pictures_of

MARKUP = re.compile(r"[\\`*\[\]<>|&]")  # the characters that Markdown, which may hold HTML, would not show as they are


def escaped(text: str) -> str:
    """A text as Markdown that shows it unchanged: text from a run folder may look like HTML, but is only text."""
    return MARKUP.sub(lambda found: {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(found[0], f"\\{found[0]}"), text)


def address(kind: str, name: str) -> str:
    """The address in the page of what a cell or a heading names in its first line, without blanks: "image-2007_000032"."""
    return "-".join(f"{kind}-{name.partition(chr(10))[0]}".split())


@dataclass(frozen=True)
class Text:
    """A paragraph; a warning stands out."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Listing:
    """Lines to copy, such as commands, in a language that Markdown knows by name; only Markdown shows them."""

    text: str
    language: str


@dataclass(frozen=True)
class Links:
    """A cell whose words link to other places in the page, if the page has these; Markdown shows only the words.

    Attributes:
        places: The address and the words of each.
    """

    places: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        return ", ".join(words for _, words in self.places)


@dataclass(frozen=True)
class Table:
    """Rows of cells; the second line of a cell is shown in small print.

    Attributes:
        columns: The heading of every column.
        rows: The cells of every row; the first one is the row's heading.
        words: The numbers of the columns that hold text, which is aligned left; the others hold numbers.
        rows_are: The kind of the rows, such as "image" or "class", for their addresses: `#image-` and the row's heading.
        full: The number whose cell has the darkest shade; 0: the cells are not shaded.
        title: The words that unfold the table when they are clicked; a table without a title is always shown.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Links]]
    words: Sequence[int] = (0,)
    rows_are: str = ""
    full: float = 0
    title: str = ""

    def _repr_markdown_(self) -> str:
        """The table as Markdown, for the report and for a notebook, which calls this method to show it."""
        rule = [":--" if number in self.words else "--:" for number in range(len(self.columns))]
        columns, *cells = [[escaped(str(cell)).replace("\n", "<br>") for cell in row] for row in (self.columns, *self.rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [columns, rule, *cells])


@dataclass(frozen=True)
class Chart:
    """A figure with its caption.

    Attributes:
        name: The name of its file, without a suffix; `render` adds a number if several charts have the same name.
        caption: The sentence below the figure, which screen readers read out in place of the figure.
        draw: Draws it with `fcnseg.report.charts`, or as a picture, the only kind that Markdown shows; it is called when the
            chart is written, so that few figures are in memory.
        numbers: The numbers of the chart as a table, which the page folds.
    """

    name: str
    caption: str
    draw: Callable[[], Figure | Picture]
    numbers: Table | None = None


@dataclass(frozen=True)
class Gallery:
    """A test image, its truth and the masks that the networks predict for it.

    Attributes:
        name: The name of the image in its data set.
        image: (3, H, W) uint8.
        truth: (H, W) labels, 255 for void.
        predictions: The (H, W) labels by the title of every network's experiment.
        classes: The classes of the labels.
        with_errors: Whether the errors of every prediction are shown as well.
    """

    name: str
    image: Pixels
    truth: Pixels
    predictions: Mapping[str, Pixels]
    classes: Classes
    with_errors: bool = False

    @property
    def caption(self) -> str:
        """The sentence below the figure."""
        return f"{self.name}: the image, its truth, and the mask of every network in a row of its own."

    def cards(self) -> dict[str, dict[str, Picture]]:
        """Pairs of pictures by their title; each picture is named after its content."""
        cards: dict[str, dict[str, Picture]] = {}
        for title, mask in self.predictions.items():
            shown = pictures_of(self.image, self.truth, mask, self.classes, with_errors=self.with_errors)
            # They are the same beside every network, and have a card of their own.
            cards.setdefault("image and truth", {what: shown.pop(what) for what in ("image", "truth")})
            cards[title] = shown
        return cards

    def legend(self) -> dict[str, str]:
        """The classes in all of the masks, and the kinds of errors, with their colours."""
        return legend([self.truth, *self.predictions.values()], self.classes, with_errors=self.with_errors)

    def draw(self) -> Picture:
        """The whole gallery as one picture, a row per network, for Markdown and notebooks."""
        masks, rows = [*self.predictions.values()], len(self.predictions)
        samples = [self.image] * rows, [self.truth] * rows, masks
        return panel(*samples, self.classes, [*self.predictions], with_errors=self.with_errors)


Block = Text | Listing | Table | Chart | Gallery


@dataclass(frozen=True)
class Section:
    """Blocks under a heading.

    Attributes:
        title: The heading, which the list of sections links to.
        blocks: The blocks from top to bottom.
    """

    title: str
    blocks: Sequence[Block]
