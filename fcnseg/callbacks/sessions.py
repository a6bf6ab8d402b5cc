"""The callback that lists the sessions in which a run was trained: their epochs and their machines."""

from math import ceil
from typing import Any

from lightning import Callback, LightningModule, Trainer

from fcnseg.results import provenance
from fcnseg.results.result import Code
from fcnseg.runs.older import sessions_of


class Sessions(Callback):
    """Lists, in every checkpoint, the sessions of a run: one for each time that it was started or resumed.

    Args:
        code: The code of this session: see `provenance.code`.

    Attributes:
        earlier: The sessions before this one.
    """

    def __init__(self, code: Code) -> None:
        self.code = code
        self.earlier: list[dict[str, Any]] = []
        self._first_step, self._here = 0, dict[str, Any]()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the earlier sessions, and the step at which this one begins."""
        self.earlier, self._first_step = sessions_of(checkpoint), checkpoint["global_step"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the sessions up to here."""
        checkpoint["sessions"] = self.up_to_now(trainer)

    def here(self, trainer: Trainer) -> dict[str, Any]:
        """The surroundings and the code of this session, as they were when it began: packages may be updated meanwhile."""
        self._here = self._here or {**provenance.surroundings(trainer), **self.code}
        return self._here

    def up_to_now(self, trainer: Trainer) -> list[dict[str, Any]]:
        """The sessions in order: `epochs` (the first and the last, counted from 1) and the surroundings of each."""
        if trainer.global_step == self._first_step:
            return self.earlier
        epoch = trainer.num_training_batches
        epochs = [int(self._first_step // epoch) + 1, ceil(trainer.global_step / epoch)]
        return [*self.earlier, {"epochs": epochs, **self.here(trainer)}]
