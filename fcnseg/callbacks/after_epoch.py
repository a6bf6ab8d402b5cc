"""A callback that acts when an epoch is complete."""

from lightning import Callback, LightningModule, Trainer


class AfterEpoch(Callback):
    """Calls `after_epoch` when an epoch is complete: trained, validated, logged, and the schedule stepped.

    That is the start of the next epoch or the end of training: at Lightning's `on_train_epoch_end` the task has not logged
    yet, and a checkpoint still counts the epoch as unfinished.
    """

    def __init__(self) -> None:
        self._epochs_done = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the earlier epochs of a resumed run as done."""
        self._epochs_done = trainer.current_epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `after_epoch` for the previous epoch."""
        self._complete(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `after_epoch` for the last epoch."""
        self._complete(trainer, pl_module)

    def _complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch > self._epochs_done:
            self._epochs_done = trainer.current_epoch
            self.after_epoch(trainer, pl_module, trainer.current_epoch - 1)

    def after_epoch(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Act after epoch `epoch`, counted from 0, is complete."""
        raise NotImplementedError
