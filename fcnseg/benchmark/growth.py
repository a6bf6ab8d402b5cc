"""How the time and the memory of a training grow with the number of images, their size and the batch."""

import os
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from fcnseg.benchmark.arms import WARMUP, train
from fcnseg.benchmark.process import call
from fcnseg.benchmark.step import seconds
from fcnseg.benchmark.tables import Figures, Tables, cases, measured
from fcnseg.data import Size, sides, spelled
from fcnseg.data.loader import Loader
from fcnseg.data.packed import Pack, map_array

# The settings that grow, each with the factors by which the config's value is multiplied.
FACTORS = {"data.source.train": (1, 4, 16), "data.size": (1, 2, 4), "data.batch_size": (1, 2, 4)}
BEYOND = 2  # how many times as large as the machine's memory the large pack is
GATHERED = 50  # the number of batches that are taken from it


def growth(cfg: Any) -> Iterator[Tables]:
    """Epochs of more and more images, of larger ones and of larger batches, and a pack larger than the memory."""
    points = [f"{key} x {factor}" for key, factors in FACTORS.items() for factor in factors]
    title = "Growth of a training epoch; data MB: memory beyond that of as many steps on two batches"
    yield from measured(title, lambda growing: epoch(grown(cfg, growing)), cases(growing=points))
    yield from measured("A pack larger than the memory", partial(call, beyond_memory, cfg))


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

    As many steps on two batches alone show what memory torch takes: what comes on top is the data's.
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
        "pack_mb": (source.train + source.val) * packed_bytes(size) / 1e6,
        "peak_mb": whole["host_mb"],
        "data_mb": whole["host_mb"] - few["host_mb"],
    }


def packed_bytes(size: Size) -> int:
    """The bytes of an image in a pack: three of each pixel's colour, and its label."""
    return 4 * prod(sides(size))


def beyond_memory(cfg: Any) -> Figures:
    """The images/s taken at random from a pack larger than the memory, and what that adds to this process's own memory.

    The pack is a hole in a file, which takes no room on the disk: it shows what is mapped and what is loaded, not how fast
    the disk is.
    """
    size, batch_size = cfg.data.size, cfg.data.batch_size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    images = int(BEYOND * memory / packed_bytes(size))
    with TemporaryDirectory() as folder:
        paths = Path(folder) / "images.npy", Path(folder) / "masks.npy"
        for path, channels in zip(paths, ((3,), ()), strict=True):
            np.lib.format.open_memmap(path, "w+", np.uint8, (images, *sides(size), *channels))
        before = _own_memory()
        pixels, labels = map(map_array, paths)
        pack = Pack(pixels, labels, ids=(), class_pixels=torch.zeros(0), fingerprint="")
        batches = iter(Loader(pack, torch.arange(images), batch_size=batch_size, seed=0, step=lambda: 0))
        (batch_s,) = seconds(lambda: next(batches), device=pixels.device, repeats=GATHERED)
        own = _own_memory() - before
    figures = {"memory_gb": memory / 1e9, "pack_gb": pack.nbytes / 1e9}
    return {**figures, "images_per_s": batch_size / batch_s, "own_mb": own / 1e6}


def _own_memory() -> int:
    """The bytes of this process that are not pages of a file, which the system may drop at any time."""
    kilobytes = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]
    return int(kilobytes) * 1000
