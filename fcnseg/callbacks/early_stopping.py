"""Early stopping that a killed run does not forget."""

import sys
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping


class Patience(EarlyStopping):
    """Stops after `patience` epochs without a better val/miou; a run killed after that does not train on."""

    def __init__(self, patience: int) -> None:
        super().__init__("val/miou", mode="max", patience=patience, check_finite=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop again if the saved state says so: Lightning forgets that it had stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
            print(f"fcnseg: patience={self.patience} has run out; a larger one trains on", file=sys.stderr)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, with this run's patience."""
        super().load_state_dict({**state_dict, "patience": self.patience})
