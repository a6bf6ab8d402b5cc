"""Which runs are one experiment, which may be compared, and what differs between them and from the paper."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, stdev
from typing import Any, NamedTuple

from fcnseg import paper
from fcnseg.report.collect import Config, Entry

Published = Mapping[str, Config]  # the settings of each of the paper's experiments
NOT_THE_EXPERIMENT = ("seed", "name", "runs", "resume", "data.root")  # where and how often, not what
MACHINE = ("trainer.accelerator", "trainer.devices", "trainer.precision", "optimizer.fused")
DERIVED = ("schedule.T_max",)  # follows from trainer.max_epochs
TELLING = ("choices.data", "data.size", "data.split", "trainer.max_epochs", "optimizer.lr")
WORDS = {"model.weights": "pretrained weights", "data.size": "size in pixels"}


class Stat(NamedTuple):
    """A mean over seeds, and the standard deviation where there are several."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.deviation is None else f"\n± {self.deviation:.4f}")


class Evaluation(NamedTuple):
    """What numbers must share to be compared."""

    data: str
    fingerprint: str
    split: str
    size: int
    images: int

    def __str__(self) -> str:
        return f"{self.data}, {self.split} split: {self.images} test images at {self.size} px, data {self.fingerprint}"


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in their seed alone.

    Attributes:
        title: Unlike any other's.
        entries: At least one, by seed.
        printed: The paper's table, if it is one of the paper's experiments.
        differences: What is not as in the paper's experiment.
    """

    title: str
    entries: tuple[Entry, ...]
    printed: paper.Printed | None
    differences: tuple[str, ...]

    @property
    def first(self) -> Entry:
        """The run with the lowest seed, which stands for the others in pictures."""
        return self.entries[0]

    @property
    def standing(self) -> str:
        """How it relates to the paper, in few words."""
        data = self.first.config.get("choices.data")
        elsewhere = f", on {data}" if data != paper.DATA else ""
        if self.printed is None:
            return f"not in the paper{elsewhere}"
        return f"not the paper's setting{elsewhere}" if self.differences else "the paper's setting"

    def stat(self, value: Callable[[Mapping[str, Any]], float | None]) -> Stat | None:
        """Over the seeds' results; None where none has the value."""
        values = [found for entry in self.entries if (found := value(entry.result)) is not None]
        if not values:
            return None
        return Stat(fmean(values), stdev(values) if len(values) > 1 else None)

    def metric(self, name: str) -> Stat | None:
        """Of a test metric, such as `miou`."""
        return self.stat(lambda result: result["metrics"].get(f"test/{name}"))


def tested_on(entry: Entry) -> Evaluation:
    """What a finished run was tested on."""
    result = entry.result
    return Evaluation(
        entry.config.get("choices.data", "?"),
        result["data_fingerprint"],
        result["split"],
        result["size"],
        result["images"]["test"],
    )


def _identity(entry: Entry) -> dict[str, str]:
    """All that makes two runs one experiment, whatever their seeds."""
    settings = {key: str(value) for key, value in entry.config.items() if not _is_incidental(key)}
    data = {key: str(entry.result.get(key)) for key in ("data_fingerprint", "split", "size")}
    return {**settings, **data}


def _is_incidental(key: str) -> bool:
    return key in NOT_THE_EXPERIMENT or key.startswith("checkpoint.")


def differences(entry: Entry, published: Config) -> tuple[str, ...]:
    """What a run has otherwise than the paper's experiment: "max_epochs 3 (paper: 30)"."""
    ours = entry.config
    found = [f"data {ours['choices.data']} (paper: {paper.DATA})"] if ours["choices.data"] != paper.DATA else []
    images = entry.result.get("images", paper.IMAGES)
    if not found and images != paper.IMAGES and ours.get("data.split") == published["data.split"]:
        found.append(
            f"images {'/'.join(map(str, images.values()))} (paper: {'/'.join(map(str, paper.IMAGES.values()))})"
        )
    for key in dict.fromkeys([*published, *ours]):
        skipped = _is_incidental(key) or key in MACHINE + DERIVED or key.startswith(("choices.", "data.source."))
        if not skipped and ours.get(key) != published.get(key):
            found.append(f"{_name(key)} {_value(ours, key)} (paper: {_value(published, key)})")
    return tuple(found)


def _name(key: str) -> str:
    return WORDS.get(key, key.removesuffix("._target_").rpartition(".")[2])


def _value(config: Config, key: str) -> str:
    if key not in config:
        return "-"
    if config[key] is None:
        return "none"
    value = str(config[key])
    return value.rpartition("." if key.endswith("_target_") else "/")[2]  # of a class or a file its name is enough


def _title(entry: Entry) -> str:
    """The experiment, or what was chosen; a pretrained backbone is always named."""
    config = entry.config
    chosen = [config.get(f"choices.{group}") for group in ("model", "aug", "loss", "schedule")]
    title = config.get("choices.experiment") or "-".join(str(choice) for choice in chosen)
    backbone = config.get("model.backbone")
    return f"{title} ({backbone})" if backbone else title


def _told_apart(groups: Sequence[Sequence[Entry]]) -> list[str]:
    """A title for every group; where several would be the same, as few settings as tell them apart are added."""
    titles = [_title(group[0]) for group in groups]
    apart = []
    for title, group in zip(titles, groups, strict=True):
        twins = [_identity(other[0]) for other, name in zip(groups, titles, strict=True) if name == title]
        mine = _identity(group[0])
        apart.append(", ".join([title, *(f"{_name(key)} {mine.get(key, '-')}" for key in _telling(twins))]))
    return apart


def _telling(twins: Sequence[Mapping[str, str]]) -> list[str]:
    """Settings by whose values no two of `twins` are the same, those first that mean most."""
    telling: list[str] = []
    kinds = 1
    for key in dict.fromkeys([*TELLING, *(key for twin in twins for key in twin)]):
        found = len({tuple(twin.get(each) for each in (*telling, key)) for twin in twins})
        if found > kinds:
            telling, kinds = [*telling, key], found
    return telling


def experiments(entries: Iterable[Entry], published: Published) -> list[Experiment]:
    """Runs gathered over their seeds: the paper's experiments in the paper's order, then the others."""
    order = list(paper.EXPERIMENTS)

    def place(entry: Entry) -> tuple[int, str, str, str]:
        name = entry.config.get("choices.experiment")
        rank = order.index(name) if name in order else len(order)
        return (rank, _title(entry), entry.state, str(_identity(entry)))

    found = sorted(entries, key=lambda entry: (*place(entry), entry.config.get("seed", 0)))
    groups = [tuple(group) for _, group in groupby(found, key=place)]
    made = []
    for title, group in zip(_told_apart(groups), groups, strict=True):
        name = str(group[0].config.get("choices.experiment"))
        differing = differences(group[0], published[name]) if name in published else ()
        made.append(Experiment(title, group, paper.EXPERIMENTS.get(name), differing))
    return made


def by_test_set(found: Iterable[Experiment]) -> dict[Evaluation, list[Experiment]]:
    """Finished experiments by what they were tested on: only within one may numbers be compared."""
    sets: dict[Evaluation, list[Experiment]] = {}
    for experiment in found:
        sets.setdefault(tested_on(experiment.first), []).append(experiment)
    return sets
