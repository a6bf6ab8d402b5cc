"""The callback that keeps an exponential moving average of the weights, and has the average validated.

Lightning's WeightAveraging does not keep three promises of a run. In a checkpoint saved during a validation, as after a
signal, the average and the weights in training are exchanged. At the end of training it puts the average in the weights' place:
an extended run differs from one that was longer from the start. Its decay does not rise: a short run's average is still that of
random weights.
"""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from fcnseg.models.weights import NET


class EMA(Callback):
    """Averages the network's weights, and the statistics of its batch norms, after every step.

    After step n, counted from 0, the average is d * the previous average + (1 - d) * the weights, where d = min(decay,
    (1 + n) / (10 + n)): early averages forget the random weights soon. While a run validates, the network has the average.
    In `last.ckpt` the network's weights are those in training, and the average is in the state of this callback.

    Args:
        decay: The largest weight of the previous average, between 0 and 1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._in_training: dict[str, Tensor] | None = None  # the weights, while the network has the average
        self._restored: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Save the average."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the average, when the training starts and the weights are on their device."""
        self._restored = state_dict["average"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the weights in training, also in a validation."""
        checkpoint["state_dict"].update({f"{NET}{name}": value for name, value in (self._in_training or {}).items()})

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin with the first weights, or with the average of an earlier session of the run."""
        self.average = _copy(pl_module.net)
        for name, value in self._restored.items():
            self.average[name].copy_(value)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        """Add this step's weights to the average; whole numbers, such as counts of batches, are copied."""
        done = trainer.global_step
        added = 1 - min(self.decay, done / (done + 9))
        weights = pl_module.net.state_dict()
        floats = [name for name, value in weights.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in floats], [weights[name] for name in floats], added)
        for name in weights.keys() - floats:
            self.average[name].copy_(weights[name])

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Give the network the average."""
        if self.average:  # in training, but not in a validation by itself
            self._in_training = _copy(pl_module.net)
            pl_module.net.load_state_dict(self.average)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Give the network its weights back."""
        if self._in_training is not None:
            pl_module.net.load_state_dict(self._in_training)
            self._in_training = None


def validated_weights(trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:
    """The state dict of the module with the weights that are validated: the average, if there is one."""
    averages = [callback.average for callback in trainer.callbacks if isinstance(callback, EMA)]  # type: ignore[attr-defined]
    return {**pl_module.state_dict(), **{f"{NET}{name}": value for one in averages for name, value in one.items()}}


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}
