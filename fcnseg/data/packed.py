"""Packs: each image of an image set is decoded and resized once, into an array file that is mapped into memory."""

import hashlib
import json
import mmap
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Resampling
from torch import Tensor

from fcnseg.data import decode
from fcnseg.data.dataset import BY_COLOUR, SUFFIXES, VOID, DataSet
from fcnseg.data.settings import Size, sides, spelled
from fcnseg.machine.files import build_once, user_cache
from fcnseg.machine.threads import in_threads
from fcnseg.texts import first_of, warn

FORMAT = 2  # goes up when the same files would be packed in another way
READ_WHOLE = 2**30  # bytes up to which a pack's checksum is verified whenever the pack is opened
NORESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python's mmap has from 3.13 on

Array = np.memmap[Any, np.dtype[np.uint8]]


class PackedImage(NamedTuple):
    """The facts about an image that has been written into a pack.

    Attributes:
        pixels: The number of pixels of each of the C classes, then of void, before resizing.
        digest: A hash of the bytes of its files.
        by_colour: Whether its mask's palette holds the classes' colours at other indices than their labels.
    """

    pixels: list[int]
    digest: str
    by_colour: bool


@dataclass(frozen=True)
class Pack:
    """An image set at one size.

    Attributes:
        images: (N, H, W, 3) uint8 RGB, resized to one size, bilinear with antialias; channels last, as networks want them.
        masks: (N, H, W) uint8 labels, 0..C-1 and 255 for void, resized by nearest neighbour.
        names: The names of the N images.
        label_pixels: (C + 1,) int64, the pixels of every class, then of void, before resizing.
        fingerprint: A hash of the names and of the bytes of every file.
    """

    images: Tensor
    masks: Tensor
    names: tuple[str, ...]
    label_pixels: Tensor
    fingerprint: str

    def to(self, device: torch.device) -> "Pack":
        """The same pack with its images and masks on `device`."""
        return replace(self, images=self.images.to(device), masks=self.masks.to(device))


def pack(
    data_set: DataSet, image_set: str, size: Size, *, names: Sequence[str] | None = None, cache: Path | None = None
) -> Pack:
    """The pack of an image set; it is built first if the data set is new or its files have changed.

    Args:
        data_set: The data set whose images and masks are packed.
        image_set: The name of the image set.
        size: The side in pixels of the square that images are resized to; or [height, width].
        names: The names of the images that are packed; None: the whole image set.
        cache: The folder for packs; None: `packs` in the data set, or the user's cache if the data set is read-only.

    Raises:
        ValueError: Files are missing or broken or do not fit one another (the message names them), the disk is full, or the
            pack is damaged.
    """
    names = data_set.names(image_set) if names is None else names
    if missing := [str(path) for path in data_set.missing(names)]:
        suffixes = f"(a photograph ends in {', '.join(SUFFIXES)})"
        raise ValueError(f"{len(missing)} files of the image set '{image_set}' are missing {suffixes}:\n{first_of(missing)}")
    packs_folder = cache or default_packs_folder(data_set)
    pack_folder = packs_folder / f"{image_set}-{spelled(size)}-{_key(data_set, names, size, packs_folder)}"
    try:
        build_once(pack_folder, partial(_build, data_set, names, size, f"Packing {image_set} at {spelled(size)} px"))
    except OSError as error:
        raise ValueError(
            f"cannot write the pack of {len(names)} images at {spelled(size)} px to {packs_folder}: {error.strerror};"
            " make room there, or lower data.size, or choose another folder with data.cache="
        ) from error
    return _open(pack_folder)


def default_packs_folder(data_set: DataSet) -> Path:
    """The folder for a data set's packs: beside its images, or the user's cache if it is marked or mounted read-only."""
    # Root may write everywhere: for root, only the mode says that a folder is marked read-only.
    if os.access(data_set.path, os.W_OK) and data_set.path.stat().st_mode & 0o200:
        return data_set.path / "packs"
    try:
        return user_cache() / "packs"
    except ValueError as error:
        raise ValueError(
            f"{data_set.path} is read-only, and there is no home: choose a folder for packs with data.cache="
        ) from error


def _key(data_set: DataSet, names: Sequence[str], size: Size, packs_folder: Path) -> str:
    """A hash of all that a pack is made from: it changes when a file is added, changed or touched.

    Archives and images of disks give all their files one time. So the end of each file also counts: in a PNG it is the
    checksum, in a JPEG it depends on the last rows. Data sets that share a folder of packs have different keys.
    """
    data_path = None if packs_folder.is_relative_to(data_set.path) else str(data_set.path.resolve())
    files = [_trace(path) for name in names for path in (data_set.image(name), data_set.mask(name))]
    return _hash(data_set, FORMAT, size, data_path, list(names), files)


def _hash(data_set: DataSet, *made_from: Any) -> str:
    """A hash of some values and of the data set's rules; VOC's are empty and left out, as before there were others."""
    rules = [data_set.rules] if data_set.rules else []
    return hashlib.sha256(json.dumps([*made_from, *rules]).encode()).hexdigest()[:12]


def _trace(path: Path) -> tuple[int, int, str]:
    """The size, the time and the last bytes of a file: they identify it without reading all of it."""
    with path.open("rb", buffering=0) as file:  # a buffer would read more than the last bytes, of thousands of files
        stat = os.stat(file.fileno())
        file.seek(max(0, stat.st_size - 64))
        return stat.st_size, stat.st_mtime_ns, file.read().hex()


def _build(data_set: DataSet, names: Sequence[str], size: Size, title: str, pack_folder: Path) -> None:
    """Write the pack of `names` into `pack_folder`, decoding on every core."""
    images = _new_array(pack_folder / "images.npy", (len(names), *sides(size), 3))
    masks = _new_array(pack_folder / "masks.npy", (len(names), *sides(size)))
    # The threads write into the same arrays.
    results = list(in_threads(partial(_write, data_set, images, masks), list(enumerate(names)), title))
    # Every file was tried: the message names several broken ones, so that they can be mended together.
    if errors := [str(result) for result in results if isinstance(result, ValueError)]:
        raise ValueError(first_of(errors))
    pixels, digests, by_colour = zip(*(result for result in results if isinstance(result, PackedImage)), strict=True)
    if any(by_colour):
        warn(f"{sum(by_colour)} of {len(names)} masks hold {BY_COLOUR}")
    fingerprint = _hash(data_set, list(names), digests)
    meta = {"ids": list(names), "class_pixels": np.sum(pixels, axis=0).tolist(), "fingerprint": fingerprint}
    # Before the stats are read: the time of a mapped file may change when it is flushed.
    images.flush()
    masks.flush()
    checksum = {"checksum": _checksum(meta, images, masks), "stats": _stats(pack_folder)}
    (pack_folder / "pack.json").write_text(json.dumps({**meta, **checksum}), encoding="utf-8")


def _write(data_set: DataSet, images: Array, masks: Array, item: tuple[int, str]) -> PackedImage | ValueError:
    """Write an image and its mask into the arrays, given its row and name; if one is broken, the result is the error."""
    row, name = item
    try:
        image = decode.read_image(data_set.image(name))
        mask = data_set.read_mask(name, image)
    except ValueError as error:
        return error
    pixels = data_set.classes.count_pixels(mask)
    if sum(pixels) != mask.width * mask.height:  # of a data set that somebody else wrote
        wanted = f"wanted 0..{len(data_set.classes) - 1} and {VOID} for void"
        return ValueError(f"mask {data_set.mask(name)} is read with labels that are of no class, {wanted}")
    height, width = masks.shape[1:]
    images[row] = decode.squashed(image, (height, width))
    masks[row] = np.asarray(mask.resize((width, height), Resampling.NEAREST))
    digest = hashlib.sha256(data_set.image(name).read_bytes() + data_set.mask_bytes(name))
    return PackedImage(pixels, digest.hexdigest(), mask.info.get("by_colour", False))


def _new_array(path: Path, shape: tuple[int, ...]) -> Array:
    """Make an array file and take its room on the disk at once: a disk that fills up later kills the process by SIGBUS."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _checksum(meta: dict[str, Any], *arrays: npt.NDArray[np.uint8]) -> int:
    """The CRC-32 of all that a pack holds: 80 ms for VOC's 1464 train images at 224 px, which are read anyway."""
    checksum = zlib.crc32(json.dumps([meta, *(array.shape for array in arrays)], sort_keys=True).encode())
    for array in arrays:
        checksum = zlib.crc32(array.data, checksum)
    return checksum


def _stats(pack_folder: Path) -> list[list[int]]:
    """The sizes and times of a pack's array files."""
    stats = [(pack_folder / f"{name}.npy").stat() for name in ("images", "masks")]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def _open(pack_folder: Path) -> Pack:
    """Map a finished pack into memory, when its checksum is right.

    The checksum of a pack larger than `READ_WHOLE` is computed only if its files were written to since they were built. If
    a mapped file is cut short later, SIGBUS ends the process and cannot be caught. Then the same command, started again,
    comes here and says what to do.

    Raises:
        ValueError: The pack is damaged.
    """
    try:
        meta = json.loads((pack_folder / "pack.json").read_text(encoding="utf-8"))
        checksum, stats = meta.pop("checksum"), meta.pop("stats")
        images, masks = (map_array(pack_folder / f"{name}.npy") for name in ("images", "masks"))
        is_verified = images.nbytes <= READ_WHOLE or stats != _stats(pack_folder)
        if is_verified and checksum != _checksum(meta, images.numpy(), masks.numpy()):
            raise ValueError("its checksum is wrong")
        return Pack(images, masks, tuple(meta["ids"]), torch.tensor(meta["class_pixels"]), meta["fingerprint"])
    except (OSError, ValueError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"the pack {pack_folder} is damaged ({error}): remove this folder, and it is built anew") from error


def map_array(path: Path) -> Tensor:
    """Map an array file into memory, copy-on-write: changes of the tensor do not reach the file.

    It computes `np.load(path, mmap_mode="c")`, which reserves memory for a copy of the whole array, and fails for a pack
    that is larger than the memory.
    """
    array = np.load(path, mmap_mode="r")  # for its shape, and for the place where its values begin
    with path.open("rb") as file:
        # Writable, since torch warns of memory that is not.
        flags, access = mmap.MAP_PRIVATE | NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        pages = mmap.mmap(file.fileno(), 0, flags, access)
    return torch.frombuffer(pages, dtype=torch.uint8, offset=array.offset).view(array.shape)
