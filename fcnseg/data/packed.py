"""Packs: each image of an image set is decoded and resized once, into an array file that is mapped into memory."""

import hashlib
import json
import mmap
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor

from fcnseg.data import voc
from fcnseg.data.progress import shown
from fcnseg.files import build_once

FORMAT = 1  # goes up when the same files would be packed in another way
SHOWN = 10  # files named in one message
NORESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python's mmap has from 3.13 on

Array = np.memmap[Any, np.dtype[np.uint8]]
Packed = tuple[list[int], str]  # of one image: the pixels of every class, then of void, and the hash of its two files


@dataclass(frozen=True)
class Pack:
    """An image set at one size.

    Attributes:
        images: (N, S, S, 3) uint8 RGB, resized to a square, bilinear with antialias; channels last, as networks want them.
        masks: (N, S, S) uint8 labels, 0..20 and 255 for void, resized by nearest neighbour.
        ids: The names of the N images.
        class_pixels: (22,) int64, the pixels of every class, then of void, before resizing.
        fingerprint: A hash of the names and of the bytes of every file.
    """

    images: Tensor
    masks: Tensor
    ids: tuple[str, ...]
    class_pixels: Tensor
    fingerprint: str

    def to(self, device: torch.device) -> "Pack":
        """The same pack with its images and masks on `device`."""
        return replace(self, images=self.images.to(device), masks=self.masks.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of its images and masks."""
        return self.images.nbytes + self.masks.nbytes


def pack(folder: voc.Folder, image_set: str, size: int) -> Pack:
    """The pack of an image set; it is built first if the data set is new or its files have changed.

    Args:
        folder: The data set. Its packs lie in it, or in the user's cache if it is read-only.
        image_set: The name of the image set.
        size: Height and width in pixels.

    Raises:
        ValueError: Files are missing or broken or do not fit one another (the message names them), or the disk is full.
    """
    ids = folder.ids(image_set)
    if missing := [str(path) for path in folder.missing(ids)]:
        raise ValueError(f"{len(missing)} files of the image set '{image_set}' are missing:\n{_some(missing)}")
    home = _packs(folder) / f"{image_set}-{size}-{_key(folder, ids, size)}"
    try:
        build_once(home, partial(_build, folder, ids, size, f"Packing {image_set} at {size} px"))
    except OSError as error:
        raise ValueError(
            f"cannot write the pack of {len(ids)} images at {size} px to {home.parent}: {error.strerror};"
            " make room there, or lower data.size"
        ) from error
    return _open(home)


def _some(lines: Sequence[str]) -> str:
    """The first lines of many."""
    more = [f"... and {len(lines) - SHOWN} more"] * (len(lines) > SHOWN)
    return "\n".join([*lines[:SHOWN], *more])


def _packs(folder: voc.Folder) -> Path:
    """Where the packs of `folder` go: beside its images, or into the user's cache if it is marked or mounted read-only."""
    writable = os.access(folder.path, os.W_OK) and folder.path.stat().st_mode & 0o200
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return folder.path / "packs" if writable else cache / "fcnseg" / "packs"


def _key(folder: voc.Folder, ids: Sequence[str], size: int) -> str:
    """A hash of all that a pack is made from: it changes when a file is added, changed or touched."""
    files = [path.stat() for name in ids for path in (folder.image(name), folder.mask(name))]
    made_from = [FORMAT, size, list(ids), [(file.st_size, file.st_mtime_ns) for file in files]]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]


def _build(folder: voc.Folder, ids: Sequence[str], size: int, title: str, home: Path) -> None:
    """Write the pack of `ids` into `home`, decoding on every core."""
    images = _new_array(home / "images.npy", (len(ids), size, size, 3))
    masks = _new_array(home / "masks.npy", (len(ids), size, size))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(shown(pool.map(partial(_write, folder, images, masks), count(), ids), title, len(ids)))
    if errors := [str(result) for result in results if isinstance(result, ValueError)]:
        raise ValueError(_some(errors))
    pixels, digests = zip(*(result for result in results if not isinstance(result, ValueError)), strict=True)
    meta = {
        "ids": list(ids),
        "class_pixels": np.sum(pixels, axis=0).tolist(),
        "fingerprint": hashlib.sha256(json.dumps([list(ids), digests]).encode()).hexdigest()[:12],
    }
    images.flush()
    masks.flush()
    (home / "pack.json").write_text(json.dumps(meta), encoding="utf-8")


def _write(folder: voc.Folder, images: Array, masks: Array, row: int, name: str) -> Packed | ValueError:
    """Write the image `name` and its mask into a row of the arrays; if one of them is broken, the result is the error.

    Several threads may call it at once, since Pillow frees Python's lock.
    """
    try:
        image = voc.read_image(folder.image(name))
        mask = voc.read_mask(folder.mask(name), image.size)
    except ValueError as error:
        return error
    square = masks.shape[1:]
    images[row] = np.asarray(image.resize(square, Resampling.BILINEAR))
    masks[row] = np.asarray(mask.resize(square, Resampling.NEAREST))
    digest = hashlib.sha256(folder.image(name).read_bytes() + folder.mask(name).read_bytes())
    return voc.count_pixels(mask), digest.hexdigest()


def _new_array(path: Path, shape: tuple[int, ...]) -> Array:
    """Make an array file and take its room on the disk at once: a disk that fills up later kills the process by SIGBUS."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _open(home: Path) -> Pack:
    """Map a finished pack into memory."""
    try:
        meta = json.loads((home / "pack.json").read_text(encoding="utf-8"))
        images, masks = (map_array(home / f"{name}.npy") for name in ("images", "masks"))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"the pack {home} is damaged ({error}): remove this folder, and it is built anew") from error
    return Pack(images, masks, tuple(meta["ids"]), torch.tensor(meta["class_pixels"]), meta["fingerprint"])


def map_array(path: Path) -> Tensor:
    """Map an array file into memory, copy-on-write: what is written to the tensor does not reach the file.

    It computes `np.load(path, mmap_mode="c")`, which reserves memory for a copy of the whole array, and fails for a pack
    that is larger than the memory.
    """
    array = np.load(path, mmap_mode="r")
    with path.open("rb") as file:
        flags, access = mmap.MAP_PRIVATE | NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        pages = mmap.mmap(file.fileno(), 0, flags, access)
    return torch.frombuffer(pages, dtype=torch.uint8, offset=array.offset).view(array.shape)
