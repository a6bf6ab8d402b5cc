"""Groups of parameters, and clipped gradients."""

import pytest
import torch
from lightning import Callback
from torch import nn

from fcnseg import build
from fcnseg.data.voc import VOC
from fcnseg.learning.optimizers import optimizer

CLIPPED = ["optimizer=sgd", "optimizer.lr=1", "optimizer.momentum=0", "optimizer.weight_decay=0"]
OTHERS = {  # networks with a backbone, without a download
    "model=transfer": ["model.backbone=resnet18", "model.weights=null"],
    "model=fpn": ["model.backbone=mobilenet_v3_small", "model.weights=null"],
    "model=torchvision": ["model.arch=lraspp_mobilenet_v3_large", "model.weights=null"],
    "model=smp": ["model.encoder=resnet18", "model.weights=null"],
}


@pytest.fixture
def optimizer_of(compose):
    """`optimizer_of(*overrides)`: a network, and the groups of its optimiser."""

    def optimizer_of(*overrides):
        task = build.task(compose(*overrides), classes=VOC, class_pixels=torch.ones(21))
        return task.net, task.optimizer(task.net).param_groups

    return optimizer_of


def names(net):
    return {parameter: name for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_without_these_settings_there_is_one_group_as_ever(optimizer_of, optimizer):
    net, (group,) = optimizer_of("model=transfer", *OTHERS["model=transfer"], f"optimizer={optimizer}")
    assert "name" not in group
    assert [id(p) for p in group["params"]] == [id(p) for p in net.parameters()]


@pytest.mark.parametrize("choice", OTHERS)
def test_a_backbone_has_its_own_learning_rate(optimizer_of, choice):
    if choice == "model=smp":
        pytest.importorskip("segmentation_models_pytorch")
    net, (head, backbone) = optimizer_of(choice, *OTHERS[choice], "optimizer.lr=0.5", "optimizer.backbone_lr=0.1")
    assert [(group["name"], group["lr"]) for group in (head, backbone)] == [("head", 0.5), ("backbone", 0.05)]
    spelled = names(net)
    inside = {spelled[p] for p in backbone["params"]}
    start = {"model=torchvision": "net.backbone.", "model=smp": "net.encoder."}.get(choice, "backbone.")
    assert inside == {name for name in spelled.values() if name.startswith(start)} != set()
    assert inside | {spelled[p] for p in head["params"]} == set(spelled.values())
    assert not any(key.startswith("backbone.") for key in net.state_dict()) or start == "backbone."


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_norms_and_biases_do_not_decay(optimizer_of, optimizer):
    args = [f"optimizer={optimizer}", "optimizer.decay_norms=false"]
    args += ["+optimizer.weight_decay=0.25"] if optimizer != "sgd" else ["optimizer.weight_decay=0.25"]
    net, groups = optimizer_of("model=fcn", *args)
    spelled = names(net)
    decays = {spelled[p]: group["weight_decay"] for group in groups for p in group["params"]}
    spared = {name for name in decays if name.endswith(".bias")}
    spared |= {f"{name}.weight" for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert decays == {name: 0 if name in spared else 0.25 for name in spelled.values()}
    assert {group["lr"] for group in groups} == {0.01 if optimizer == "sgd" else 0.001}


def test_all_four_groups(optimizer_of):
    args = ["model=transfer", *OTHERS["model=transfer"], "optimizer.backbone_lr=0.5", "optimizer.decay_norms=false"]
    net, groups = optimizer_of(*args)
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in groups} == {
        "head": (0.001, 0.01),
        "head_no_decay": (0.001, 0),
        "backbone": (0.0005, 0.01),
        "backbone_no_decay": (0.0005, 0),
    }
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


def test_a_factor_of_no_weight_is_refused(optimizer_of):
    frozen = ["model=transfer", *OTHERS["model=transfer"], "model.freeze=true"]
    for args in (["model=fcn"], frozen):
        with pytest.raises(ValueError, match=r"optimizer\.backbone_lr=0\.1: \w+ has no backbone, or a frozen one"):
            optimizer_of(*args, "optimizer.backbone_lr=0.1")
    optimizer_of("model=fcn", "optimizer.backbone_lr=1")  # for a sweep over both kinds of networks
    with pytest.raises(ValueError, match="Linear has no backbone"):  # before anything is made
        optimizer(torch.nn.Linear(2, 2), make=lambda _: pytest.fail("made"), backbone_lr=0.1, clips=False)


def test_without_a_weight_decay_there_is_none_to_leave_out(optimizer_of):
    with pytest.raises(ValueError, match=r"decay_norms=false .* set optimizer\.weight_decay"):
        optimizer_of("optimizer=adam", "optimizer.decay_norms=false")


class Updates(Callback):
    """The norm of each step's change of the weights."""

    def __init__(self):
        self.norms = []

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.before = [parameter.clone() for parameter in pl_module.net.parameters()]

    def on_train_batch_end(self, trainer, pl_module, *_):
        changes = [now - before for now, before in zip(pl_module.net.parameters(), self.before, strict=True)]
        self.norms.append(nn.utils.get_total_norm(changes).item())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("fused", ["true", "false"])
def test_a_clipped_step_is_as_long_as_is_said(compose, tiny, precision, fused):
    clip = ["+trainer.gradient_clip_val=0.125", f"optimizer.fused={fused}", f"trainer.precision={precision}"]
    cfg = compose(*tiny(*CLIPPED, *clip))
    data = build.data(cfg)
    data.prepare_data()
    task = build.task(cfg, classes=data.classes, class_pixels=data.class_pixels)
    updates = Updates()
    trainer = build.trainer(cfg, callbacks=[updates])
    trainer.fit(task, data)
    assert updates.norms == [pytest.approx(0.125, rel=1e-3)] * 2
    assert trainer.optimizers[0].param_groups[0]["fused"] == (fused == "true")


def test_scaled_gradients_are_unscaled_once_before_they_are_clipped():
    """As 16-mixed does on a GPU."""
    weight = nn.Parameter(torch.zeros(1))
    net = nn.Module()
    net.weight = weight
    make = lambda parameters: torch.optim.SGD(parameters, lr=1.0, fused=True)  # noqa: E731
    optimizer = build.optimizer(net, make=make, clips=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024)
    scaler.scale(3 * weight.sum()).backward()
    scaler.unscale_(optimizer)
    assert nn.utils.clip_grad_norm_([weight], 2.0).item() == pytest.approx(3)
    scaler.step(optimizer)
    assert weight.item() == pytest.approx(-2)
