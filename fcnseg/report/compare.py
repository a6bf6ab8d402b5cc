"""Compare runs: which of them are one experiment, and how they differ from each other and from the paper."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, stdev
from typing import Any, NamedTuple

from fcnseg import paper
from fcnseg.cli.configs import compose
from fcnseg.report.collect import Config, Entry
from fcnseg.runs.settings import flatten

Published = Mapping[str, Config]  # the settings of each of the paper's experiments
# Settings, and groups of settings, that say where and how often a run is made, not what it computes.
INCIDENTAL = ("seed", "name", "runs", "resume", "data.root", "checkpoint")
# Settings in which a run may differ from the paper's: the machine's, and what follows from trainer.max_epochs.
NOT_THE_PAPER_S = ("trainer.accelerator", "trainer.devices", "trainer.precision", "optimizer.fused", "schedule.T_max")
KNOWN_BEST = ("choices.data", "data.size", "data.split", "trainer.max_epochs", "optimizer.lr")  # by these first
WORDS = {"model.weights": "pretrained weights", "data.size": "size in pixels"}


def published_settings() -> Published:
    """The settings of the paper's experiments, as `conf/experiment` has them."""
    configs = {name: compose(f"experiment={name}") for name in paper.EXPERIMENTS}
    return {name: flatten({key: cfg[key] for key in cfg if key != "choices"}) for name, cfg in configs.items()}


class Stat(NamedTuple):
    """The mean over seeds, and the standard deviation, which is None for a single run."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.deviation is None else f"\n± {self.deviation:.4f}")


class Evaluation(NamedTuple):
    """What results were measured on: only results of the same evaluation can be compared."""

    data: str
    fingerprint: str
    split: str
    size: int
    images: int

    def __str__(self) -> str:
        return f"{self.data}, {self.split} split: {self.images} test images at {self.size} px, data {self.fingerprint}"


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in their seeds alone.

    Attributes:
        title: A title that no other experiment of the report has.
        entries: The runs, of which there is at least one, ordered by seed.
        published: The paper's result, if this is one of the paper's experiments.
        differences: The settings that differ from those of the paper's experiment.
    """

    title: str
    entries: tuple[Entry, ...]
    published: paper.PublishedResult | None
    differences: tuple[str, ...]

    @property
    def first(self) -> Entry:
        """The run with the lowest seed, which represents the experiment in pictures."""
        return self.entries[0]

    @property
    def beside_the_paper(self) -> str:
        """Whether the paper has this experiment, and with these settings, in a few words."""
        data = self.first.choice("data")
        elsewhere = f", on {data}" if data != paper.DATA else ""
        if self.published is None:
            return f"not in the paper{elsewhere}"
        return f"not the paper's setting{elsewhere}" if self.differences else "the paper's setting"

    def stat(self, value: Callable[[Mapping[str, Any]], float | None]) -> Stat | None:
        """The statistics of a value computed from each run's result; None where no run has the value."""
        values = [found for entry in self.entries if (found := value(entry.result)) is not None]
        if not values:
            return None
        return Stat(fmean(values), stdev(values) if len(values) > 1 else None)

    def metric(self, name: str) -> Stat | None:
        """The statistics of a test metric, such as `miou`."""
        return self.stat(lambda result: result["metrics"].get(f"test/{name}"))

    def iou(self, name: str) -> Stat | None:
        """The statistics of the IoU of one class."""
        return self.stat(lambda result: result["iou"].get(name))


def _identity(entry: Entry) -> dict[str, str]:
    """What two runs must have in common to be one experiment.

    A setting that is null counts as absent: a later version of the package has more of them.
    """
    settings = {key: value for key, value in entry.config.items() if not _is_incidental(key)}
    data = {key: entry.result.get(key) for key in ("data_fingerprint", "split", "size")}
    return {key: str(value) for key, value in {**settings, **data}.items() if value is not None}


def _is_incidental(key: str) -> bool:
    key = key.removeprefix("choices.")
    return key in INCIDENTAL or key.partition(".")[0] in INCIDENTAL


def differences(entry: Entry, published: Config | None) -> tuple[str, ...]:
    """How a run differs from the paper's experiment, if it is one, setting by setting: "max_epochs 3 (paper: 30)"."""
    if published is None:
        return ()
    ours, data = entry.config, entry.choice("data")
    # On other data, the numbers of images are bound to differ.
    found = [f"data {data} (paper: {paper.DATA})"] if data != paper.DATA else []
    images = entry.result.get("images", paper.IMAGES)
    if not found and images != paper.IMAGES and ours.get("data.split") == published["data.split"]:
        counts, theirs = ("/".join(map(str, each.values())) for each in (images, paper.IMAGES))
        found.append(f"images {counts} (paper: {theirs})")
    for key in dict.fromkeys([*published, *ours]):
        skipped = _is_incidental(key) or key in NOT_THE_PAPER_S or key.startswith(("choices.", "data.source."))
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
    return value.rpartition("." if key.endswith("_target_") else "/")[
        2
    ]  # of a class or a file, the last part is enough


def _title(entry: Entry) -> str:
    """The experiment's name, or what was chosen from the groups; and the backbone of a network that has one."""
    chosen = "-".join(str(entry.choice(group)) for group in ("model", "aug", "loss", "schedule"))
    title = entry.choice("experiment") or chosen
    backbone = entry.config.get("model.backbone")
    return f"{title} ({backbone})" if backbone else title


def _unique_titles(groups: Sequence[Sequence[Entry]]) -> list[str]:
    """A title for every group of runs; where several groups would have the same, the settings that differ are added."""
    titles, identities = [_title(group[0]) for group in groups], [_identity(group[0]) for group in groups]
    unique = []
    for title, mine in zip(titles, identities, strict=True):
        twins = [identity for identity, name in zip(identities, titles, strict=True) if name == title]
        added = [f"{_name(key)} {mine.get(key, 'none')}" for key in _distinguishing(twins)]
        unique.append(", ".join([title, *added]))
    return unique


def _distinguishing(twins: Sequence[Mapping[str, str]]) -> list[str]:
    """A few settings in which any two of `twins` differ, those that people know best first."""
    chosen: list[str] = []
    kinds = 1
    for key in dict.fromkeys([*KNOWN_BEST, *(key for twin in twins for key in twin)]):
        found = len({tuple(twin.get(each) for each in (*chosen, key)) for twin in twins})
        if found > kinds:
            chosen, kinds = [*chosen, key], found
    return chosen


def experiments(entries: Iterable[Entry], published: Published) -> list[Experiment]:
    """Gather runs over their seeds: first the paper's experiments in the paper's order, then the others by title."""
    ranks = {name: rank for rank, name in enumerate(paper.EXPERIMENTS)}

    def place(entry: Entry) -> tuple[int, str, str, str]:
        rank = ranks.get(entry.choice("experiment"), len(ranks))
        return (rank, _title(entry), entry.state, str(sorted(_identity(entry).items())))

    # groupby gathers neighbours only.
    found = sorted(entries, key=lambda entry: (*place(entry), entry.config.get("seed", 0)))
    groups = [tuple(group) for _, group in groupby(found, key=place)]
    made = []
    for title, group in zip(_unique_titles(groups), groups, strict=True):
        name = str(group[0].choice("experiment"))
        made.append(Experiment(title, group, paper.EXPERIMENTS.get(name), differences(group[0], published.get(name))))
    return made


def by_test_set(found: Iterable[Experiment]) -> dict[Evaluation, list[Experiment]]:
    """Group finished experiments by what they were tested on."""
    sets: dict[Evaluation, list[Experiment]] = {}
    for experiment in found:
        entry, result = experiment.first, experiment.first.result
        data, images = entry.config.get("choices.data", "?"), result["images"]["test"]
        test_set = Evaluation(data, result["data_fingerprint"], result["split"], result["size"], images)
        sets.setdefault(test_set, []).append(experiment)
    return sets
