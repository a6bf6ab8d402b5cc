"""What networks predict for test images: side by side, as the paper's Figures 9-11 are, and for one image after the other.

PyTorch is imported when the first network is loaded: a report on runs without weights does not wait for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fcnseg.report.collect import Entry, line
from fcnseg.report.compare import Experiment
from fcnseg.report.document import Block, Gallery, Text
from fcnseg.report.study import Measured
from fcnseg.runs.folder import BEST, Run

if TYPE_CHECKING:
    from torch import Tensor

    from fcnseg.data.module import VOCDataModule
    from fcnseg.inference import Segmenter

T = TypeVar("T")
MOST_COLUMNS = 12  # of a chart
MOST_OPEN = 4  # networks, or data sets, at a time
NO_WEIGHTS = f"no checkpoints/{BEST} in the folder"


def _has_weights(entry: Entry) -> bool:
    return (Run(entry.path).checkpoints / BEST).is_file()


class Galleries:
    """Galleries of test images with what runs predict for them; a run is read when it is first asked for.

    Args:
        root: The folder in which the data set is now; None: the one that each run was trained from.
        trust: Whether the configs of runs may name any code.
        wanted: Whether there are to be galleries; if not, no network is loaded.
    """

    def __init__(self, root: str | None, *, trust: bool = False, wanted: bool = True) -> None:
        self.wanted, self._root, self._trust = wanted, root, trust
        self._opened: dict[str, VOCDataModule] = {}
        # A few networks only: all of them may not fit into memory.
        self.network = lru_cache(maxsize=MOST_OPEN)(self._load)
        self._gone: set[Path] = set()

    def data(self, entry: Entry) -> "VOCDataModule":
        """What a run was tested on, opened once for all runs with the same settings of the data.

        Raises:
            ValueError: It is not there, or has other classes.
        """
        from fcnseg.report import samples

        settings = str([(key, value) for key, value in entry.config.items() if "data" in key.split(".")])
        if settings not in self._opened:
            if len(self._opened) == MOST_OPEN:
                self._opened.pop(next(iter(self._opened)))
            self._opened[settings] = samples.load_data(entry.path, self._root, trust=self._trust)
        entry.classes.check_same(self._opened[settings].classes, str(entry.path))
        return self._opened[settings]

    def _load(self, path: Path) -> "Segmenter":
        from fcnseg import inference

        return inference.load(path, trust=self._trust)

    def gallery(self, name: str, runs: Sequence[Measured]) -> list[Gallery | Text]:
        """A test image with what runs predict for it; a warning, once, if a checkpoint or the data set is gone, or damaged."""
        data: dict[str, VOCDataModule] = {}
        predictions: dict[str, dict[str, Tensor]] = {}
        made: list[Gallery | Text] = []
        for run in (run for run in runs if self.wanted and run.entry.path not in self._gone):
            before = len(made)
            with _left_out(run.title, made):
                if not _has_weights(run.entry):
                    raise ValueError(NO_WEIGHTS)
                from fcnseg.report import samples

                data[run.title] = self.data(run.entry)
                predictions[run.title] = samples.predict(self.network(run.entry.path), data[run.title], [name])
            if len(made) > before:
                self._gone.add(run.entry.path)
        if not predictions:
            return made
        return [*made, replace(samples.gallery(name, data, predictions), with_errors=True)]


def side_by_side(finished: Sequence[Experiment], wanted: Sequence[object] | None, galleries: Galleries) -> list[Block]:
    """A gallery for every image shown of every data set; runs of one data set may differ in their split and size.

    Raises:
        ValueError: No run was tested on one of the images that are wanted.
    """
    if not galleries.wanted:
        return []
    lost = [each.title for each in finished if not _has_weights(each.first)]
    finished = [each for each in finished if each.title not in lost]
    blocks: list[Block] = [Text(f"No predictions of {', '.join(lost)}: {NO_WEIGHTS}", warning=True)] if lost else []
    if not finished:
        return blocks
    from fcnseg.report import samples

    data_sets: dict[str, list[Experiment]] = {}
    for experiment in finished:
        data_sets.setdefault(experiment.test_data, []).append(experiment)
    known: list[str] = []
    for found in data_sets.values():
        data: dict[str, VOCDataModule] = {}
        for experiment in found:
            with _left_out(experiment.title, blocks):
                data[experiment.title] = galleries.data(experiment.first)
                if changed := data[experiment.title].changed_since(experiment.first.result["data_fingerprint"]):
                    blocks.append(Text(f"Predictions of {experiment.title}: {changed}.", warning=True))
        if data:
            # A split may leave some of the images out of the test set: only what all networks were tested on is shown.
            names = samples.shared_test_names([*data.values()])
            known += names
            shown = (
                samples.chosen(wanted, names) if wanted is not None else samples.pick(next(iter(data.values())), names)
            )
            blocks += _galleries([each for each in found if each.title in data], shown, data, galleries)
    # A name may be in one data set and not in another; it must be in one of them.
    if known and (missing := [item for item in wanted or () if not samples.chosen([item], known)]):
        raise ValueError(f"images={missing}: wanted names of test images, such as {', '.join(known[:3])}")
    return blocks


def _galleries(
    found: Sequence[Experiment], names: Sequence[str], data: Mapping[str, "VOCDataModule"], galleries: Galleries
) -> list[Block]:
    """A gallery for every name, after a warning for every experiment whose network cannot be loaded."""
    from fcnseg.report import samples

    blocks: list[Block] = []
    predictions: dict[str, dict[str, Tensor]] = {}
    for experiment in found:
        with _left_out(experiment.title, blocks):
            segmenter = galleries.network(experiment.first.path)
            predictions[experiment.title] = samples.predict(segmenter, data[experiment.title], names)
    rows = in_rows([*predictions.items()])
    return blocks + [samples.gallery(name, data, dict(row)) for name in names for row in rows]


def in_rows(items: Sequence[T]) -> list[Sequence[T]]:
    """The items, in rows that one chart has room for: a column for each of a hundred runs would be a chart of 200 MB."""
    return [items[start : start + MOST_COLUMNS] for start in range(0, len(items), MOST_COLUMNS)]


@contextmanager
def _left_out(title: str, blocks: list[Any]) -> Iterator[None]:
    """Add a warning to `blocks` if the `with` block raises: a checkpoint or a data set may be gone, or be damaged."""
    try:
        yield
    except Exception as error:
        blocks.append(Text(f"No predictions of {title}: {line(error)}", warning=True))
