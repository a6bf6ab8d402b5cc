"""The callback that lists the parts of a run: what each process that trained it ran on."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Parts(Callback):
    """Lists, in every checkpoint, the epochs that each process has trained, and what it ran on.

    Args:
        here: What this process runs on: see `provenance.surroundings`.

    Attributes:
        earlier: The parts that other processes have trained.
    """

    def __init__(self, here: Mapping[str, Any]) -> None:
        self.here = here
        self.earlier: list[dict[str, Any]] = []
        self._first_step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the parts before, and the step at which this one begins."""
        self.earlier, self._first_step = checkpoint.get("parts", []), checkpoint["global_step"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the parts up to here."""
        checkpoint["parts"] = self.up_to_now(trainer)

    def up_to_now(self, trainer: Trainer) -> list[dict[str, Any]]:
        """The parts in their order: `epochs`, the first and the last one, counted from 1, and what they ran on."""
        if trainer.global_step == self._first_step:
            return self.earlier
        epoch = trainer.num_training_batches
        epochs = [int(self._first_step // epoch) + 1, ceil(trainer.global_step / epoch)]
        return [*self.earlier, {"epochs": epochs, **self.here}]
