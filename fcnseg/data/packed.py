"""Decode once: an image set as two memory-mapped uint8 arrays beside the data set."""

import hashlib
import json
import mmap
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL.Image import Resampling
from rich.progress import track
from torch import Tensor

from fcnseg.data import voc

FORMAT = 1  # goes up when the same files would be packed in another way
SHOWN = 10  # broken files named in one message
PART = 16  # images that a thread packs between two words with the others
NORESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python's mmap has from 3.13 on

Packed = tuple[list[int], str]  # of one image: (256,) pixels per label, and its files' digest


@dataclass(frozen=True)
class Pack:
    """An image set at one size.

    Attributes:
        images: (N, S, S, 3) uint8 RGB, squashed to a square, bilinear with antialias; channels last, as the networks want.
        masks: (N, S, S) uint8 labels, 0..20 and 255 for void, nearest neighbour.
        ids: The N images' names.
        class_pixels: (22,) int64 pixels of every class, then of void, at the images' own sizes.
        fingerprint: Hash of the names and of every file's bytes.
    """

    images: Tensor
    masks: Tensor
    ids: tuple[str, ...]
    class_pixels: Tensor
    fingerprint: str

    def to(self, device: torch.device) -> "Pack":
        """The same pack with its pixels on `device`."""
        return replace(self, images=self.images.to(device), masks=self.masks.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels."""
        return self.images.nbytes + self.masks.nbytes


def _home(folder: voc.Folder) -> Path:
    """Where the packs of `folder` go: beside its images, or in the user's cache if it is marked or mounted read-only."""
    writable = os.access(folder.path, os.W_OK) and folder.path.stat().st_mode & 0o200
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return folder.path / "packs" if writable else cache / "fcnseg" / "packs"


def _key(folder: voc.Folder, ids: Sequence[str], size: int) -> str:
    """A hash of all that a pack is made from: a file added, changed or touched gives another."""
    files = [path.stat() for name in ids for path in (folder.image(name), folder.mask(name))]
    made_from = [FORMAT, size, list(ids), [(file.st_size, file.st_mtime_ns) for file in files]]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]


class _Writer:
    """Decodes images into the two arrays; called from several threads (Pillow frees Python's lock)."""

    def __init__(self, folder: voc.Folder, home: Path, ids: Sequence[str], size: int) -> None:
        shape = (len(ids), size, size)
        self.folder, self.size = folder, size
        self.images = np.lib.format.open_memmap(home / "images.npy", "w+", np.uint8, (*shape, 3))
        self.masks = np.lib.format.open_memmap(home / "masks.npy", "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):  # where a disk fills up under a mapped file, the process is killed by SIGBUS
            for path in (home / "images.npy", home / "masks.npy"):
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

    def several(self, jobs: Sequence[tuple[int, str]]) -> list[Packed | ValueError]:
        """Write several images."""
        return [self(row, name) for row, name in jobs]

    def __call__(self, row: int, name: str) -> Packed | ValueError:
        """Write image `name` into `row`; what is known of it then, or what is wrong with it."""
        try:
            image = voc.read_image(self.folder.image(name))
            mask = voc.read_mask(self.folder.mask(name), image.size)
        except ValueError as error:
            return error
        square = (self.size, self.size)
        self.images[row] = np.asarray(image.resize(square, Resampling.BILINEAR))
        self.masks[row] = np.asarray(mask.resize(square, Resampling.NEAREST))
        digest = hashlib.sha256(self.folder.image(name).read_bytes() + self.folder.mask(name).read_bytes())
        return mask.histogram(), digest.hexdigest()

    def flush(self) -> None:
        """Wait until the arrays are on the disk."""
        self.images.flush()
        self.masks.flush()


def _build(folder: voc.Folder, home: Path, ids: Sequence[str], size: int, title: str) -> None:
    """Write the pack of `ids` into `home`, decoding on every core."""
    writer, jobs = _Writer(folder, home, ids, size), list(enumerate(ids))
    parts = [jobs[start : start + PART] for start in range(0, len(jobs), PART)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = track(pool.map(writer.several, parts), description=title, total=len(parts), transient=True)
        results = [result for part in done for result in part]
    if errors := [str(result) for result in results if isinstance(result, ValueError)]:
        more = f"\n... and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise ValueError("\n".join(errors[:SHOWN]) + more)
    pixels = np.sum([result[0] for result in results if not isinstance(result, ValueError)], axis=0)
    digests = [result[1] for result in results if not isinstance(result, ValueError)]
    meta = {
        "ids": list(ids),
        "class_pixels": [*pixels[: voc.NUM_CLASSES].tolist(), int(pixels[voc.VOID])],
        "fingerprint": hashlib.sha256(json.dumps([list(ids), digests]).encode()).hexdigest()[:12],
    }
    writer.flush()
    (home / "pack.json").write_text(json.dumps(meta), encoding="utf-8")


def _map(path: Path) -> Tensor:
    """Map an array into memory; copy-on-write, so that nothing can change it by mistake.

    NumPy's own copy-on-write reserves memory for a copy of all of it, which there is not for a pack that is larger.
    """
    array = np.load(path, mmap_mode="r")
    with path.open("rb") as file:
        flags, access = mmap.MAP_PRIVATE | NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        pages = mmap.mmap(file.fileno(), 0, flags, access)
    return torch.frombuffer(pages, dtype=torch.uint8, offset=array.offset).view(array.shape)


def _open(home: Path) -> Pack:
    """Map a finished pack into memory."""
    try:
        meta = json.loads((home / "pack.json").read_text(encoding="utf-8"))
        images, masks = (_map(home / f"{name}.npy") for name in ("images", "masks"))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"the pack {home} is damaged ({error}): remove this folder, and it is built anew") from error
    return Pack(images, masks, tuple(meta["ids"]), torch.tensor(meta["class_pixels"]), meta["fingerprint"])


def pack(folder: voc.Folder, image_set: str, size: int) -> Pack:
    """The pack of one image set, built first if there is none or if the data set's files have changed.

    Built under a lock in a folder of its own, which is then renamed: of several processes one builds and the others
    wait, and a killed build leaves nothing that could pass for a pack.

    Args:
        folder: The data set.
        image_set: Which of its image sets.
        size: Height and width in pixels.

    Raises:
        ValueError: files are missing, broken or do not fit one another; the message names them.
    """
    ids = folder.ids(image_set)
    if missing := [str(path) for path in folder.missing(ids)]:
        named = "\n".join(missing[:SHOWN]) + ("\n..." if len(missing) > SHOWN else "")
        raise ValueError(f"{len(missing)} files of the image set '{image_set}' are missing:\n{named}")
    home = _home(folder) / f"{image_set}-{size}-{_key(folder, ids, size)}"
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.with_suffix(".lock")):
            if not home.exists():  # another process may have built it while this one waited
                draft = home.with_suffix(".draft")
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                try:
                    _build(folder, draft, ids, size, f"Packing {image_set} at {size} px")
                    os.replace(draft, home)
                except OSError as error:
                    raise ValueError(
                        f"cannot write the pack of {len(ids)} images at {size} px to {home.parent}: {error.strerror};"
                        " make room there, or lower data.size"
                    ) from error
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
    return _open(home)
