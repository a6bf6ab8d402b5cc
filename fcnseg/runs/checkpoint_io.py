"""How Lightning reads and writes the checkpoints of a run."""

from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.fabric.plugins.io import TorchCheckpointIO

from fcnseg.names import LAST, PREVIOUS
from fcnseg.runs import older
from fcnseg.runs.checkpoint_files import StoredCheckpoint, check_weights, read, save


class SafeCheckpointIO(TorchCheckpointIO):
    """Replaces Lightning's own, which copies over the old file and leaves it broken after a kill (pytorch-lightning#21253).

    Attributes:
        opened: A checkpoint that was already read, so that Lightning need not read the file a second time.
    """

    opened: StoredCheckpoint | None = None

    def save_checkpoint(self, checkpoint: StoredCheckpoint, path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint of the run or of a callback of Lightning's; the old `last.ckpt` becomes `previous.ckpt`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, checkpoint, keep=PREVIOUS if path.name == LAST else None)

    def load_checkpoint(self, path: str | Path, *_: object, **__: object) -> StoredCheckpoint:
        """Hand over the checkpoint that was opened; it is not kept, since Lightning takes it apart."""
        checkpoint, self.opened = self.opened or read(Path(path)), None
        return checkpoint

    def open(self, path: Path, task: LightningModule, max_epochs: int) -> StoredCheckpoint:
        """Read the checkpoint to resume, and check that it is one of this run.

        Raises:
            ValueError: The file cannot be read, was saved by an earlier version of this package, has the weights of another
                network, or has more epochs than `max_epochs`.
        """
        checkpoint = read(path)
        older.check_resumable(checkpoint, path)
        check_weights(checkpoint["state_dict"], task, path)
        if (done := checkpoint["epoch"]) > max_epochs:
            raise ValueError(
                f"trainer.max_epochs={max_epochs}, but {path} has {done} epochs behind it: raise it, or start over with"
                " resume=never"
            )
        self.opened = checkpoint
        return checkpoint
