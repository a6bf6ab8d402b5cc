"""Checkpoint files that survive a kill or a full disk, and are known to be whole before they are used."""

import hashlib
import sys
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor

from fcnseg.files import replacing, write_text

SUMS = "SHA256SUMS"  # as `sha256sum -c` reads it


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: Path) -> list[tuple[str, str]]:
    """(hash, file) of every checkpoint written whole; for a moment of a save, two of one file."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [(digest, name) for digest, _, name in (line.partition("  ") for line in lines)]


def _write_sums(folder: Path, sums: list[tuple[str, str]]) -> None:
    write_text(folder / SUMS, "".join(f"{digest}  {name}\n" for digest, name in sums))


def save(path: Path, checkpoint: dict[str, Any], *, keep: str | None = None) -> None:
    """Write `checkpoint` to `path` whole or not at all, its hash beside it, and keep the file it replaces as `keep`.

    The hash is there before the file is, and the old ones until after: whatever moment a kill comes at, every file that
    is whole is known to be.

    Raises:
        OSError: it could not be written (a full disk); what was there is still there.
    """
    folder, draft = path.parent, path.with_name(f".{path.name}.new")
    try:
        with replacing(draft) as file:
            torch.save(checkpoint, file)
        digest = sha256(draft)
        before = _sums(folder)
        _write_sums(folder, [*before, (digest, path.name)])
        if keep and path.exists():
            path.replace(folder / keep)
        draft.replace(path)
        after = dict((name, old) for old, name in before)
        if keep and path.name in after:
            after[keep] = after[path.name]
        _write_sums(folder, [(old, name) for name, old in {**after, path.name: digest}.items()])
    except RuntimeError as error:  # how torch.save reports that the disk is full
        raise OSError(f"{path.name} could not be written: {str(error).splitlines()[0]}") from error
    finally:
        draft.unlink(missing_ok=True)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if its bytes are those that were written."""
    if not path.exists():
        return "is missing"
    if path.stat().st_size == 0:
        return "is empty"
    known = {digest for digest, _ in _sums(path.parent)}
    return None if sha256(path) in known else f"does not have the hash in {SUMS}: it is truncated or was changed"


def newest_good(folder: Path) -> Path | None:
    """The checkpoint to go on from; None to start anew. Damaged ones are named on stderr and passed over."""
    found = [path for name in ("last.ckpt", "previous.ckpt") if (path := folder / name).exists()]
    best = folder / "best.ckpt"
    listed = any(name == best.name for _, name in _sums(folder))
    begun = best.with_name(f".{best.name}.new").exists()  # listed, and killed before it was put in its place
    if found and (best.exists() or (listed and not begun)) and (wrong := damage(best)):
        print(f"fcnseg: {best} {wrong}: its epoch is lost, so the run starts anew", file=sys.stderr)
        return None
    for path in found:
        if (wrong := damage(path)) is None:
            return path
        print(f"fcnseg: {path} {wrong}: passed over for an older one", file=sys.stderr)
    return None


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written by `save`: its own copies over the old file (pytorch-lightning#21253)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; the one before is kept as `previous.ckpt`."""
        save(Path(path), checkpoint, keep="previous.ckpt")


def check_epochs(max_epochs: int, path: Path) -> None:
    """Refuse to go on from a checkpoint that has more epochs than are wanted.

    Raises:
        ValueError: it has.
    """
    done = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["epoch"]
    if done > max_epochs:
        raise ValueError(
            f"trainer.max_epochs={max_epochs}, but {path} has {done} epochs behind it: raise it, or start over with"
            " resume=never"
        )


def load_weights(task: LightningModule, path: Path) -> None:
    """Load a checkpoint's weights into `task`; no code in the file is run.

    Raises:
        ValueError: no such file, a damaged one, or not this task's weights: with a table of what differs.
    """
    task.load_state_dict(fitting_weights(task, path))


def fitting_weights(task: LightningModule, path: Path) -> dict[str, Tensor]:
    """A checkpoint's weights, once they are known to be such as `task` has.

    Raises:
        ValueError: see `load_weights`.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # a damaged file raises whatever its first wrong byte leads to
        raise ValueError(f"cannot load the checkpoint {path}: {str(error).splitlines()[0]}") from error
    own = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if own != found:
        names = sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name))
        rows = [f"  {name}: {found.get(name, 'none')} for {own.get(name, 'none')}" for name in names[:10]]
        more = [f"  ... and {len(names) - 10} more"] if len(names) > 10 else []
        raise ValueError("\n".join([f"{path} has the weights of another network (found, for wanted):", *rows, *more]))
    return cast(dict[str, Tensor], state)
