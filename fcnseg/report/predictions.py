"""What all networks predict for a few test images, side by side: the paper's Figures 9-11."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from fcnseg import inference
from fcnseg.report import masks
from fcnseg.report.collect import line
from fcnseg.report.compare import Experiment
from fcnseg.report.document import Block, Text

T = TypeVar("T")
MOST_COLUMNS = 12  # of a chart


def side_by_side(
    finished: Sequence[Experiment], wanted: Sequence[object] | None, root: str | None, *, trust: bool = False
) -> list[Block]:
    """A gallery for every image shown of every data set; runs of one data set may differ in their split and size."""
    data_sets: dict[str, list[Experiment]] = {}
    for experiment in finished:
        data_sets.setdefault(experiment.first.result["data_fingerprint"], []).append(experiment)
    blocks: list[Block] = []
    known: list[str] = []
    for fingerprint, found in data_sets.items():
        data = {}
        for experiment in found:
            with _left_out(experiment, blocks):
                data[experiment.title] = masks.load_data(experiment.first.path, root, trust=trust)
                if changed := data[experiment.title].changed_since(fingerprint):
                    blocks.append(Text(f"Predictions of {experiment.title}: {changed}.", warning=True))
        if not data:
            continue
        # A split may leave some of the images out of the test set: only what all networks were tested on is shown.
        names = masks.test_names([*data.values()])
        known += names
        shown = masks.chosen(wanted, names) if wanted is not None else masks.pick(next(iter(data.values())), names)
        predictions = {}
        for experiment in found:
            if experiment.title in data:
                with _left_out(experiment, blocks):
                    # One network after the other: together they may not fit into memory.
                    segmenter = inference.load(experiment.first.path, trust=trust)
                    predictions[experiment.title] = masks.predict(segmenter, data[experiment.title], shown)
        for name in shown:
            blocks += [masks.gallery(name, data, dict(part)) for part in in_parts([*predictions.items()])]
    # A name may be in one data set and not in another; it must be in one of them.
    if known and (missing := [item for item in wanted or () if not masks.chosen([item], known)]):
        raise ValueError(f"images={missing}: wanted names of test images, such as {', '.join(known[:3])}")
    return blocks


def in_parts(items: Sequence[T]) -> list[Sequence[T]]:
    """The items, in parts that one chart has room for: a column for each of a hundred runs would be a chart of 200 MB."""
    return [items[start : start + MOST_COLUMNS] for start in range(0, len(items), MOST_COLUMNS)]


@contextmanager
def _left_out(experiment: Experiment, blocks: list[Block]) -> Iterator[None]:
    """Add a warning to `blocks` if the `with` block raises: a checkpoint or a data set may be gone, or be damaged."""
    try:
        yield
    except Exception as error:
        blocks.append(Text(f"No predictions of {experiment.title}: {line(error)}", warning=True))
