"""How the time and the memory of a training grow with the number of images, their size and the batch."""

from collections.abc import Iterator
from math import prod
from typing import Any

from fcnseg.benchmark.arms import WARMUP, train
from fcnseg.benchmark.process import call
from fcnseg.benchmark.tables import Figures, Tables, cases, measured
from fcnseg.data import sides, spelled

BYTES = 4  # the bytes of a pixel in a pack: three of its colour, and its label
# The settings that grow, each with the factors by which the config's value is multiplied.
FACTORS = {"data.source.train": (1, 4, 16), "data.size": (1, 2, 4), "data.batch_size": (1, 2, 4)}


def growth(cfg: Any) -> Iterator[Tables]:
    """Epochs of more and more images, of larger ones, and of larger batches."""
    points = [f"{key} x {factor}" for key, factors in FACTORS.items() for factor in factors]
    title = "Growth of a training epoch; data MB: memory beyond that of as many steps on two batches"
    yield from measured(title, lambda growing: epoch(grown(cfg, growing)), cases(growing=points))


def grown(cfg: Any, growing: str) -> Any:
    """A copy of the config in which one number is larger, as in "data.size x 2"."""
    key, _, factor = growing.partition(" x ")
    *path, name = key.split(".")
    node = point = cfg.copy()
    for step in path:
        node = node[step]
    value, times = node[name], int(factor)
    node[name] = times * value if isinstance(value, int) else [times * side for side in value]
    return point


def epoch(cfg: Any) -> Figures:
    """The seconds and the memory of an epoch of generated images.

    As many steps on two batches alone show what memory torch takes: the rest is the memory of the data.
    """
    source, size, batch_size = cfg.data.source, cfg.data.size, cfg.data.batch_size
    steps = max(1, source.train // batch_size - WARMUP)
    few, whole = (call(train, cfg, "fcnseg", steps=steps, images=images) for images in (2 * batch_size, source.train))
    return {
        "images": source.train,
        "size": spelled(size),
        "batch_size": batch_size,
        "epoch_s": source.train / whole["images_per_s"],
        "ms_per_image": 1e3 / whole["images_per_s"],
        "pack_mb": (source.train + source.val) * BYTES * prod(sides(size)) / 1e6,
        "peak_mb": whole["host_mb"],
        "data_mb": whole["host_mb"] - few["host_mb"],
    }
