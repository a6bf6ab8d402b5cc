"""Early stopping that survives a resume: with Lightning's own, a run that is killed after the stop would train on."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from fcnseg.names import MONITOR
from fcnseg.texts import warn


class RunEarlyStopping(EarlyStopping):
    """Stops after `patience` epochs without a better val/miou; a run killed after that does not train on.

    Args:
        patience: The number of epochs.
    """

    def __init__(self, patience: int) -> None:
        super().__init__(MONITOR, mode="max", patience=patience, check_finite=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop again if the restored state says so."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
            warn(f"there was no better {MONITOR} for patience={self.patience} epochs; a larger patience trains longer")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, but with this run's own patience, which may have been raised."""
        super().load_state_dict({**state_dict, "patience": self.patience})
