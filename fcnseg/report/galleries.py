"""The predictions of networks for test images: side by side, as in the paper's Figures 9-11, and image by image.

PyTorch is imported when the first network is loaded: a report on runs without weights does not wait for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fcnseg.names import BEST
from fcnseg.report.collect import Entry, line
from fcnseg.report.compare import Experiment
from fcnseg.report.document import Block, Gallery, Text
from fcnseg.report.study import Measured
from fcnseg.runs.folder import Run

if TYPE_CHECKING:
    from torch import Tensor

    from fcnseg.data.module import VOCDataModule
    from fcnseg.inference import Segmenter

T = TypeVar("T")
MOST_COLUMNS = 12  # columns of a chart
MOST_NETWORKS = 4  # networks in memory: all of them may not fit
MOST_DATA = 12  # data sets that are open; their images are mapped into memory, not read
NO_WEIGHTS = f"no checkpoints/{BEST} in the folder"


def _has_weights(entry: Entry) -> bool:
    return (Run(entry.path).checkpoints / BEST).is_file()


class Galleries:
    """Galleries of test images with the predictions of runs; a run is read when it is first needed.

    Args:
        root: The folder in which the data set is now; None: the one that each run was trained from.
        trust: Whether the configs of runs may name any code.
        wanted: Whether galleries are wanted; if not, no network is loaded.
    """

    def __init__(self, root: str | None, *, trust: bool = False, wanted: bool = True) -> None:
        self.wanted, self._root, self._trust = wanted, root, trust
        self._opened: dict[str, VOCDataModule] = {}
        self.network = lru_cache(maxsize=MOST_NETWORKS)(self._load)
        self._gone: set[Path] = set()  # the runs that are left out

    def data(self, entry: Entry) -> "VOCDataModule":
        """The test data of a run, opened once for all runs with the same data settings.

        Raises:
            ValueError: The data set is missing, or has other classes.
        """
        from fcnseg.report import samples

        settings = str([(key, value) for key, value in entry.config.items() if "data" in key.split(".")])
        if settings not in self._opened:
            if len(self._opened) == MOST_DATA:
                self._opened.pop(next(iter(self._opened)))
            self._opened[settings] = samples.load_data(entry.path, self._root, trust=self._trust)
        entry.classes.check_same(self._opened[settings].classes, str(entry.path))
        return self._opened[settings]

    def _load(self, path: Path) -> "Segmenter":
        from fcnseg import inference

        return inference.load(path, trust=self._trust)

    @contextmanager
    def left_out(self, title: str, entry: Entry, blocks: list[Any]) -> Iterator[None]:
        """If the `with` block raises, leave the run out from now on and add a warning to `blocks`: its files may be damaged."""
        try:
            yield
        except Exception as error:
            self._gone.add(entry.path)
            blocks.append(Text(f"No predictions of {title}: {line(error)}", warning=True))

    def predicted(self, runs: Mapping[str, Entry], names: Sequence[str], *, with_errors: bool = False) -> list[Gallery | Text]:
        """Test images with the predictions of runs, which are named by title; one warning for each run that is left out."""
        blocks: list[Gallery | Text] = []
        data: dict[str, VOCDataModule] = {}
        predictions: dict[str, dict[str, Tensor]] = {}
        for title, entry in runs.items():
            if self.wanted and entry.path not in self._gone:
                with self.left_out(title, entry, blocks):
                    if not _has_weights(entry):
                        raise ValueError(NO_WEIGHTS)
                    from fcnseg.report import samples

                    data[title] = self.data(entry)
                    predictions[title] = samples.predict(self.network(entry.path), data[title], names)
        rows = [dict(row) for row in in_rows([*predictions.items()])]
        return blocks + [samples.gallery(name, data, row, with_errors=with_errors) for name in names for row in rows]

    def gallery(self, name: str, runs: Sequence[Measured]) -> list[Gallery | Text]:
        """A test image with the predictions of runs and their errors."""
        return self.predicted({run.title: run.entry for run in runs}, [name], with_errors=True)


def side_by_side(finished: Sequence[Experiment], wanted: Sequence[object] | None, galleries: Galleries) -> list[Block]:
    """A gallery for every image shown of every data set; runs of one data set may differ in their split and size.

    Raises:
        ValueError: No run was tested on one of the wanted images.
    """
    if not galleries.wanted:
        return []
    lost = [each.title for each in finished if not _has_weights(each.first)]
    blocks: list[Block] = [Text(f"No predictions of {', '.join(lost)}: {NO_WEIGHTS}", warning=True)] if lost else []
    data_sets: dict[str, dict[str, Entry]] = {}
    for experiment in finished:
        if experiment.title not in lost:
            data_sets.setdefault(experiment.test_data, {})[experiment.title] = experiment.first
    known: list[str] = []
    for runs in data_sets.values():
        from fcnseg.report import samples

        data: list[VOCDataModule] = []
        for title, entry in runs.items():
            with galleries.left_out(title, entry, blocks):
                data.append(galleries.data(entry))
                if changed := data[-1].changed_since(entry.result["data_fingerprint"]):
                    blocks.append(Text(f"Predictions of {title}: {changed}.", warning=True))
        if data:
            # A split may leave some of the images out of the test set: only images that all networks were tested on are shown.
            names = samples.shared_test_names(data)
            known += names
            shown = samples.chosen(wanted, names) if wanted is not None else samples.pick(data[0], names)
            blocks += galleries.predicted(runs, shown)
    # A name may be missing from some data sets, but must be in one of them.
    if known and (missing := [item for item in wanted or () if not samples.chosen([item], known)]):
        raise ValueError(f"images={missing}: wanted names of test images, such as {', '.join(known[:3])}")
    return blocks


def in_rows(items: Sequence[T]) -> list[Sequence[T]]:
    """The items, in rows that one chart has room for: a column for each of a hundred runs would be a chart of 200 MB."""
    return [items[start : start + MOST_COLUMNS] for start in range(0, len(items), MOST_COLUMNS)]
