"""Compare runs: group them into experiments, and list their differences from each other and from the paper."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeVar

from fcnseg.cli.configs import compose
from fcnseg.report.collect import Config, Entry, line
from fcnseg.results import paper
from fcnseg.runs.identity import ORDER
from fcnseg.settings.table import NOT_IDENTITY, flatten
from fcnseg.texts import counted

T = TypeVar("T")
# Settings, and groups of settings, that say where and how often a run is made, but not what it computes.
INCIDENTAL = (*NOT_IDENTITY, "seed", "data.root", "checkpoint")
# Settings that may differ from the paper's: those of the machine, and those that follow from trainer.max_epochs.
NOT_THE_PAPER_S = ("trainer.accelerator", "trainer.precision", "optimizer.fused", "schedule.T_max")
# These settings are the first to distinguish experiments of one name: people know them best.
KNOWN_BEST = (
    *("choices.data", "model.backbone", "choices.aug", "choices.loss", "choices.optimizer", "choices.schedule"),
    *("data.size", "data.split", "trainer.max_epochs", "optimizer.lr"),
)
TITLE = 60  # characters of a setting in a title: a chart has room for a few of them
STEPS = f"aug.{ORDER}"
WORDS = {"model.weights": "pretrained weights", "data.size": "size in pixels", STEPS: "augmentations"}


@cache  # composing a config takes a quarter of a second
def published_settings(name: str) -> Config:
    """The settings of one of the paper's experiments, as `conf/experiment` has them."""
    cfg = compose(f"experiment={name}")
    return flatten({key: cfg[key] for key in cfg if key != "choices"})


class Stat(NamedTuple):
    """The mean over seeds, and the standard deviation, which is None for a single run."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.deviation is None else f"\n± {self.deviation:.4f}")


@dataclass(frozen=True)
class Experiment:
    """Runs that differ only in their seeds.

    Attributes:
        title: A title that no other experiment of the report has.
        entries: The runs, at least one, ordered by seed.
        differences: The settings that differ from those of the paper's experiment.
    """

    title: str
    entries: tuple[Entry, ...]
    differences: tuple[str, ...]

    @property
    def first(self) -> Entry:
        """The run with the lowest seed, which represents the experiment in pictures."""
        return self.entries[0]

    @property
    def beside_the_paper(self) -> str:
        """A few words on whether the paper has this experiment with these settings."""
        elsewhere = f", on {self.first.data_set}" if self.first.choice("data") != paper.DATA else ""
        if self.first.published is None:
            return f"not in the paper{elsewhere}"
        return f"not the paper's setting{elsewhere}" if self.differences else "the paper's setting"

    @property
    def test_data(self) -> str:
        """The fingerprint of the test images of the runs, without the fingerprint of their training images."""
        return str(self.first.result["data_fingerprint"]).rpartition("-")[2]

    @property
    def tested_on(self) -> str:
        """The test set without the name of its folder: results on different ones cannot be compared."""
        result = self.first.result
        images = f"{counted(result['images']['test'], 'test image')} at {result['size']} px"
        return f"{result['split']} split: {images}, data {self.test_data}"

    @property
    def test_set(self) -> str:
        """A description of the test set, with the name of its folder."""
        return f"{self.first.data_set}, {self.tested_on}"

    def over_seeds(self, measure: Callable[[Entry], float | None]) -> Stat | None:
        """The statistics of a number that `measure` finds in a run; None if it finds none in any."""
        values = [value for entry in self.entries if (value := measure(entry)) is not None]
        return Stat(fmean(values), stdev(values) if len(values) > 1 else None) if values else None

    def stat(self, table: str, name: str) -> Stat | None:
        """The statistics of a number in a table of the results, such as "cat" in "iou"; None if no run has it."""
        return self.over_seeds(lambda entry: entry.result[table].get(name))

    @property
    def miou(self) -> float:
        """The mean mIoU over seeds; -1, which is below all others, if no run has one."""
        return stat.mean if (stat := self.stat("metrics", "test/miou")) else -1


def _identity(entry: Entry) -> dict[str, str]:
    """The settings that two runs must have in common to be one experiment.

    A setting that is null counts as absent: a later version of the package has more settings.
    """
    settings = {key: value for key, value in entry.config.items() if not _is_incidental(key)}
    # An unfinished run has no fingerprint yet: there, the folder stands for the data.
    settings["data_fingerprint"] = entry.result.get("data_fingerprint", entry.config.get("data.root"))
    if isinstance(order := settings.get(STEPS), list):
        settings[STEPS] = "+".join(map(str, order))
    return {key: str(value) for key, value in settings.items() if value is not None}


def grouped(items: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """The items in groups of equal keys, in the order in which the keys first come; each key is compared as text."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(str(key(item)), []).append(item)
    return [*groups.values()]


def by_train_images(finished: Iterable[Experiment]) -> list[list[Experiment]]:
    """Groups of experiments that differ only in the number of train images, if there are several such numbers."""

    def others(experiment: Experiment) -> list[tuple[str, str]]:
        """The settings that do not follow from that number."""
        settings = sorted(_identity(experiment.first).items())
        return [item for item in settings if item[0] not in ("data.limit", "data_fingerprint")]

    groups = grouped(finished, others)
    return [group for group in groups if len({each.first.result["images"]["train"] for each in group}) > 1]


def _is_incidental(key: str) -> bool:
    return any(f"{key.removeprefix('choices.')}.".startswith(f"{each}.") for each in INCIDENTAL)


def differences_from_paper(entry: Entry) -> tuple[str, ...]:
    """The differences of a run from the paper's experiment of its name, by setting: "max_epochs 3 (paper: 30)"."""
    if not entry.published:
        return ()
    ours, theirs, data = entry.config, published_settings(entry.choice("experiment")), entry.choice("data")
    images, differing = entry.result.get("images", paper.COUNTS), []
    if data != paper.DATA:
        differing.append(f"data {data} (paper: {paper.DATA})")
    # On other data, or split in another way, the numbers of images always differ.
    elif images != paper.COUNTS and ours.get("data.split") == theirs["data.split"]:
        counts = ["/".join(map(str, each.values())) for each in (images, paper.COUNTS)]
        differing.append(f"images {counts[0]} (paper: {counts[1]})")
    for key in dict.fromkeys([*theirs, *ours]):
        skipped = _is_incidental(key) or key in NOT_THE_PAPER_S or key.startswith(("choices.", "data.source."))
        if not skipped and ours.get(key) != theirs.get(key):
            differing.append(f"{_name(key)} {_value(ours, key)} (paper: {_value(theirs, key)})")
    return tuple(differing)


def _name(key: str) -> str:
    return WORDS.get(key, key.removesuffix("._target_").rpartition(".")[2])


def _value(config: Config, key: str) -> str:
    if key not in config:
        return "-"
    separator = "." if key.endswith("_target_") else "/"
    # The last part of the name of a class or a file is enough.
    return "none" if config[key] is None else line(str(config[key]).rpartition(separator)[2], TITLE)


def _title(entry: Entry) -> str:
    """The experiment's name, or the network."""
    return entry.choice("experiment") or entry.choice("model")


def _distinguishing(same_title: Sequence[Mapping[str, str]]) -> list[str]:
    """Choose a few settings that distinguish experiments of one title: each step adds the one that distinguishes most.

    Of experiments with rates and sizes of (1, 64), (2, 64) and (2, 96), that is first the rate, then the size.
    """
    chosen: list[str] = []
    keys = list(dict.fromkeys([*KNOWN_BEST, *(key for one in same_title for key in one)]))

    def kinds(key: str) -> int:
        """The number of kinds of experiments by the settings chosen so far and this one."""
        return len({tuple(one.get(each) for each in (*chosen, key)) for one in same_title})

    while keys and (so_far := len({tuple(map(one.get, chosen)) for one in same_title})) < max(map(kinds, keys)):
        # A fingerprint tells much apart and a reader nothing: it is the last choice.
        telling = [key for key in keys if key != "data_fingerprint" and kinds(key) > so_far]
        chosen.append(max(telling or keys, key=kinds))
    return chosen


def _identities(untitled: Sequence[Experiment]) -> list[dict[str, str]]:
    """The identity of every experiment, with the name of its data set's folder: one name, if equal data lie in two folders."""
    identities = [_identity(each.first) for each in untitled]
    data = [(one.get("choices.data"), one.get("data_fingerprint")) for one in identities]
    names = dict(zip(data, (each.first.data_set for each in untitled), strict=True))
    return [{**one, "choices.data": names[which]} for one, which in zip(identities, data, strict=True)]


def titled(untitled: Sequence[Experiment]) -> list[Experiment]:
    """Experiments with titles that say only what differs between them; no two of one status have the same title."""
    titles = [_title(each.first) for each in untitled]
    identities = _identities(untitled)
    named = list(zip(titles, identities, strict=True))
    settings = {title: _distinguishing([one for other, one in named if other == title]) for title in {*titles}}
    made: dict[tuple[str, str], Experiment] = {}
    for each, title, identity in zip(untitled, titles, identities, strict=True):
        added = [line(f"{_name(key)} {_value(identity, key)}", TITLE) for key in settings[title] if key in identity]
        key = ", ".join([title, *added]), each.first.status
        # Different values may be shortened to the same words.
        full = f"{key[0]} ({len(made) + 1})" if key in made else key[0]
        made[full, key[1]] = replace(each, title=full)
    return [*made.values()]


def experiments(entries: Iterable[Entry]) -> list[Experiment]:
    """Group runs over their seeds: first the paper's experiments in the paper's order, then the others by title."""
    names = list(paper.EXPERIMENTS)

    def place(entry: Entry) -> tuple[Any, ...]:
        """The key by which runs are sorted."""
        rank = names.index(entry.choice("experiment")) if entry.published else len(names)
        return rank, _title(entry), entry.status, str(sorted(_identity(entry).items())), entry.config.get("seed", 0)

    groups = grouped(sorted(entries, key=place), lambda entry: place(entry)[:-1])
    return titled([Experiment("", tuple(group), differences_from_paper(group[0])) for group in groups])


def by_test_set(finished: Iterable[Experiment]) -> dict[str, list[Experiment]]:
    """Group finished experiments by their test set, with titles that say what differs within the group."""
    groups = grouped(finished, lambda each: (each.first.choice("data"), each.tested_on))
    return {group[0].test_set: titled(group) for group in groups}
