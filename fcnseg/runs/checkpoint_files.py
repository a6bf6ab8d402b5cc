"""Checkpoint files that survive a kill or a full disk, and are checked to be whole before they are used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fcnseg.machine.files import draft_of, replacing, sha256, write_text
from fcnseg.models.weights import refusal, shapes_of
from fcnseg.names import BEST, LAST, PREVIOUS, SUMS
from fcnseg.texts import warn

# The content of a checkpoint. Lightning's keys: state_dict, optimizer_states, lr_schedulers, loops, epoch, global_step and
# callbacks, in which each of ours has what its `state_dict` returns. What our callbacks add in `on_save_checkpoint`: classes
# (Checkpoints), run_log (EpochLog) and sessions (Sessions).
StoredCheckpoint = dict[str, Any]


def _sums(folder: Path) -> list[tuple[str, str]]:
    """The (hash, file name) of every checkpoint written whole; a checkpoint that is being replaced has both hashes."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [(digest, name) for digest, _, name in (line.partition("  ") for line in lines)]


def _write_sums(folder: Path, sums: list[tuple[str, str]]) -> None:
    write_text(folder / SUMS, "".join(f"{digest}  {name}\n" for digest, name in sums))


def save(path: Path, checkpoint: StoredCheckpoint, *, keep: str | None = None) -> str:
    """Write a checkpoint whole or not at all, with its hash beside it.

    The new hash is written before the file is renamed, and the old ones are removed after that: whenever the
    process may be killed, every whole file has its hash in the list.

    Args:
        path: The file that the checkpoint is written to.
        checkpoint: The dictionary that is saved, as Lightning makes it.
        keep: The new name of the replaced file; None to remove that file.

    Returns:
        The hash of the new file.

    Raises:
        OSError: The file could not be written (a full disk); the old file is still there.
    """
    before, digest, replaced = _sums(path.parent), "", {path.name}

    def add_hash(draft: Path) -> None:
        nonlocal digest
        digest = sha256(draft)
        _write_sums(path.parent, [*before, (digest, path.name)])
        if keep and path.exists():
            path.replace(path.with_name(keep))
            replaced.add(keep)

    try:
        with replacing(path, before_rename=add_hash) as file:
            torch.save(checkpoint, file)
    except RuntimeError as error:  # torch.save reports a full disk in this way
        raise OSError(f"{path.name} could not be written: {str(error).splitlines()[0]}") from error
    others = [(old, name) for old, name in before if name not in replaced]
    kept = [(old, keep) for old, name in before if name == path.name and keep and keep in replaced]
    _write_sums(path.parent, [*others, *kept, (digest, path.name)])
    return digest


def damage(path: Path) -> str | None:
    """The damage to a checkpoint, in words; None if its bytes are those that were written."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size == 0:
        return "is empty"
    # A kill between two renames leaves previous.ckpt with the hash of last.ckpt.
    names = (LAST, PREVIOUS) if path.name == PREVIOUS else (path.name,)
    known = {digest for digest, name in _sums(path.parent) if name in names}
    return None if sha256(path) in known else f"does not have its hash in {SUMS}: it is truncated or was changed"


def newest_good(folder: Path) -> Path | None:
    """The checkpoint to resume; None to start from the beginning. Damaged ones are reported and skipped.

    Killed while it saved, a run has: best.ckpt of the epoch of last.ckpt or of one after it, which is trained again; or a draft
    of its first best.ckpt; or previous.ckpt alone, if last.ckpt was about to take its new name.
    """
    saved = [path for name in (LAST, PREVIOUS) if (path := folder / name).exists()]
    best = folder / BEST
    listed = any(name == best.name for _, name in _sums(folder))
    begun = draft_of(best).exists()  # its hash is listed, and the process was killed before the file was renamed
    # If best.ckpt is listed but missing, or is damaged, the best epoch is lost: only new training restores it.
    if saved and (best.exists() or (listed and not begun)) and (wrong := damage(best)):
        warn(f"{best} {wrong}: the weights of its epoch are lost, so the run starts again from the beginning")
        return None
    for path in saved:
        if (wrong := damage(path)) is None:
            return path
        warn(f"{path} {wrong}: it is skipped, and an older one is taken if there is one")
    return None


def read(path: Path) -> StoredCheckpoint:
    """A checkpoint's content, on the CPU; no code in the file is run.

    Raises:
        ValueError: There is no such file, or it is damaged.
    """
    try:
        if not path.is_file():  # reading a pipe could wait for ever
            raise FileNotFoundError("no such file")
        checkpoint: StoredCheckpoint = torch.load(path, map_location="cpu", weights_only=True)
        for name, value in checkpoint["state_dict"].items():
            str.encode(name), value.shape  # names of tensors
    except Exception as error:  # a damaged file may raise any error
        raise ValueError(
            f"cannot load the checkpoint {path} ({str(error).splitlines()[0]}): restore it, or start over with resume=never"
        ) from error
    return checkpoint


def load_weights(task: nn.Module, path: Path) -> None:
    """Load a checkpoint's weights into `task`.

    Raises:
        ValueError: There is no such file, the file is damaged, or it has the weights of another network.
    """
    state: dict[str, Tensor] = read(path)["state_dict"]
    check_weights(state, task, path)
    task.load_state_dict(state)


def check_weights(state: Mapping[str, Tensor], module: nn.Module, path: Path) -> None:
    """Refuse weights that have other names or shapes than those of `module`.

    Raises:
        ValueError: A weight has another name or shape; the message has a table of them.
    """
    own, found = shapes_of(module.state_dict()), shapes_of(state)
    if differing := sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name)):
        title = f"{path} has the weights of another network: choose that network, or another name="
        raise refusal(title, differing, found, own)
