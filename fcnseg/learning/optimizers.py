"""The optimiser of a network, with groups of parameters that have their own learning rates or weight decays."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

NO_DECAY = "_no_decay"  # ends the names of groups of parameters without weight decay


def optimizer(
    net: nn.Module,
    *,
    make: Callable[[Iterable[Any]], Optimizer],
    backbone_lr: float | None = None,
    decay_norms: bool | None = None,
    clips: bool,
) -> Optimizer:
    """The optimiser of the parameters that are not frozen.

    Args:
        net: The network; its attribute `backbone`, if it has one, is the pretrained part.
        make: Makes the optimiser from parameters, or from groups of them.
        backbone_lr: The factor of the backbone's learning rate; None for 1.
        decay_norms: False for no weight decay on parameters of one dimension: norms and biases.
        clips: Whether gradients are clipped.

    Raises:
        ValueError: `backbone_lr` is given but no backbone is trained, or `decay_norms` without any weight decay.
    """
    backbone = getattr(net, "backbone", nn.Module()) if backbone_lr not in (None, 1) else None
    groups = _groups(net, backbone, norms_apart=decay_norms is False)
    if backbone is not None and "backbone" not in groups:
        raise ValueError(
            f"optimizer.backbone_lr={backbone_lr}: {type(net).__name__} has no backbone, or a frozen one; wanted null, or a"
            " network that is trained on a pretrained backbone, such as model=transfer"
        )
    named = [{"name": name, "params": parameters} for name, parameters in groups.items()]
    made = make(named if groups.keys() != {"net"} else groups["net"])
    if decay_norms is False and not made.defaults.get("weight_decay"):
        raise ValueError("optimizer.decay_norms=false has no effect without a weight decay: set optimizer.weight_decay")
    for group in made.param_groups:
        name = group.get("name", "")
        if name.startswith("backbone"):
            group["lr"] *= backbone_lr
        if name.endswith(NO_DECAY):
            group["weight_decay"] = 0.0
    if clips:
        # Lightning refuses to clip for a fused optimiser, which would undo the scaling of 16-mixed's gradients itself.
        # Without this mark it is undone before they are clipped, as for any other optimiser.
        made._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return made


def _groups(net: nn.Module, backbone: nn.Module | None, *, norms_apart: bool) -> dict[str, list[nn.Parameter]]:
    """The parameters that are not frozen, by the name of their group; the backbone's groups come last."""
    of_backbone = set() if backbone is None else set(backbone.parameters())
    groups: dict[str, list[nn.Parameter]] = {}
    for parameter in net.parameters():
        if parameter.requires_grad:
            name = "backbone" if parameter in of_backbone else "net" if backbone is None else "head"
            name += NO_DECAY if norms_apart and parameter.ndim <= 1 else ""
            groups.setdefault(name, []).append(parameter)
    return dict(sorted(groups.items(), reverse=True))
