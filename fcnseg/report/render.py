"""Write the report's blocks with the templates beside this file: as one HTML page, or as Markdown."""

import base64
import gc
import io
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure
from PIL import Image

from fcnseg.data.pictures import Picture
from fcnseg.machine.files import write_text
from fcnseg.report import charts
from fcnseg.report.blocks import Gallery, Section, Table, address, escaped

T = TypeVar("T")
MOST_INSIDE = 10_000_000  # bytes of pictures in a page that can be mailed: many mail servers refuse more
PICTURES = "pictures"  # the folder for more bytes of pictures than that
TEMPLATES = Environment(
    loader=PackageLoader("fcnseg.report"),
    # Text from a run folder may look like HTML, but is only text.
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters["escaped"] = escaped
# The page allows a browser to run scripts and apply styles with these hashes only.
TEMPLATES.filters["sha256"] = lambda text: f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def write_html(folder: Path, title: str, lead: str, sections: Sequence[Section]) -> str:
    """Write the page index.html into a folder, and pictures that do not fit into it into a folder beside it.

    Every image and class in the page has an address, `#image-<name>`.

    Returns:
        A sentence about the pictures beside the page; empty if all pictures are inside it.
    """
    blocks = [block for section in sections for block in section.blocks]
    galleries = [block for block in blocks if isinstance(block, Gallery)]
    tables = [block for block in blocks if isinstance(block, Table) and block.rows_are]
    images = {address("image", gallery.name) for gallery in galleries}
    pictures = {  # of each gallery, by the title of their card and by their content
        id(gallery): {
            title: {what: _webp(picture) for what, picture in card.items()} for title, card in gallery.cards().items()
        }
        for gallery in galleries
    }
    size = sum(len(_data_address(each)) for cards in pictures.values() for card in cards.values() for each in card.values())
    remark = f"The pictures, of {size / 1e6:.0f} MB, are in the folder {PICTURES} beside index.html, which needs them."
    remark = remark if size > MOST_INSIDE else ""
    page = TEMPLATES.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=sections,
        remark=remark,
        galleries=images,
        addresses=images | {address(table.rows_are, str(row[0])) for table in tables for row in table.rows},
        pictures_of=lambda gallery: pictures[id(gallery)],
        place=_beside(folder) if remark else _data_address,
        address=address,
        free=partial(_free, set()),
        svg=lambda draw: _freed(charts.svg(draw())),
    )
    write_text(folder / "index.html", page)
    return remark


def _beside(folder: Path) -> Callable[[bytes], str]:
    """A function that writes a picture beside the page and returns its address; the pictures of an earlier report go."""
    (folder / PICTURES).mkdir(exist_ok=True)
    for old in (folder / PICTURES).glob("*.webp"):
        if old.stem.isdecimal():
            old.unlink()
    numbers = count(1)

    def place(picture: bytes) -> str:
        name = f"{PICTURES}/{next(numbers)}.webp"
        (folder / name).write_bytes(picture)
        return name

    return place


def _free(taken: set[str], name: str) -> str:
    """The name, followed by a number if it is taken; the result is then added to `taken`."""
    numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
    free = next(name for name in numbered if name not in taken)
    taken.add(free)
    return free


def _freed(written: T) -> T:
    """What was written of a figure, which is now freed."""
    # A figure refers to itself, and Python seldom frees such objects: the figures of a hundred runs would take a gigabyte.
    gc.collect(1)
    return written


def _webp(picture: Picture) -> bytes:
    """A picture as a WebP file: masks without loss, photographs with loss, in a fifth of the bytes."""
    file, image = io.BytesIO(), Image.fromarray(picture)
    image.save(file, "webp", lossless=image.getcolors(256) is not None, quality=80)
    return file.getvalue()


def _data_address(picture: bytes) -> str:
    """A picture as a data address, which contains its bytes."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def write_markdown(
    folder: Path, title: str, lead: str, sections: Sequence[Section], *, name: str = "report.md", figures: str = "figures"
) -> None:
    """Write blocks as the Markdown file `name` in a folder, and their pictures as PNG files in `figures` beside it."""
    (folder / figures).mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()

    def save(draw: Callable[[], Figure | Picture], name: str) -> str:
        """Save a figure under `name`, followed by a number if another chart has that name."""
        free = _free(taken, name.replace("/", "-")[:80])  # a name from a run folder may be too long for a file
        _freed(charts.picture(draw())).save(folder / figures / f"{free}.png")
        return f"{figures}/{free}.png"

    report = TEMPLATES.get_template("report.md")
    write_text(folder / name, report.render(title=title, lead=lead, sections=sections, save=save))
