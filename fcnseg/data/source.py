"""The search for a data set by its source; if it fails, a message names data sets nearby."""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from fcnseg.data import formats, voc
from fcnseg.data.dataset import DataSet

Source = Callable[..., DataSet]  # its arguments are a folder, and `download` if that is set
MOST_FOLDERS = 1000  # the number of folders that are searched for a data set nearby


def find(source: Source, root: Path, download: bool | None = None) -> DataSet:
    """The data set that `source` finds, downloads or generates in the folder `root`.

    Raises:
        ValueError: There is no data set, or `source` does not return one or takes no `download`.
    """
    try:
        data_set = source(root) if download is None else source(root, download=download)
    except OSError as error:
        raise ValueError(f"data.root={root}: {error}; give a folder that can be read and written") from error
    except TypeError as error:
        raise ValueError(f"data.source cannot be called with a folder: {error}; leave data.source as it is") from error
    if not isinstance(data_set, DataSet):
        kind = type(data_set).__name__
        raise ValueError(f"data.source gave a {kind}, wanted a fcnseg.data.dataset.DataSet: leave data.source as it is")
    return data_set


def nothing_found(root: Path) -> str:
    """The message that there is no data set in `root`: what was searched, what the folder holds, and what would work."""
    if files := formats.beyond_voc(root):
        return f"no VOC-2012 in data.root={root}: found {files.format}; add data=folder, which reads it"
    if near := next((path for path in islice(_nearby(root), MOST_FOLDERS) if voc.Folder.find(path)), None):
        remedy = f"data.root={near} would work"
    elif (root / voc.IMAGES).is_dir():
        remedy = f"write the names of its images into {voc.LISTS}/train.txt and val.txt, one a line"
    else:
        remedy = "give a folder in VOC's layout (README, Your data)"
    looked = " or ".join(str(root / place / voc.LISTS) for place in ("", *voc.PLACES))
    remedy = f"{remedy}, or data.download=true downloads VOC-2012 into {root} (2 GB)"
    return f"no data set in data.root={root}: looked for {looked}; {formats.contents(root)}; {remedy}"


def _nearby(root: Path) -> Iterator[Path]:
    """Folders that the user may have meant: below `root`, with a similar name, or above it."""
    above = next(path for path in (root, *root.parents) if path.is_dir())
    tops = [root]
    if above != root:
        name, *rest = root.relative_to(above).parts
        tops = [above / close for close in get_close_matches(name, [path.name for path in above.iterdir()])]
        yield from (top.joinpath(*rest) for top in tops)
    yield from (path for top in tops for depth in ("*", "*/*") for path in top.glob(depth) if path.is_dir())
    yield from root.parents[:2]
