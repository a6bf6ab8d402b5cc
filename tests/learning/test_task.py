from types import SimpleNamespace

import pytest
import torch
from lightning import Callback, seed_everything
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics.classification import MulticlassJaccardIndex

from fcnseg import build
from fcnseg.data.batch import normalize
from fcnseg.data.voc import NUM_CLASSES, VOC, VOID
from fcnseg.learning.metrics import RunningMean, SegmentationMetrics, confusion, scores

WIDTHS = "model.widths=[8,16,32]"
PIXELS = torch.ones(NUM_CLASSES)
STEADY = "+optimizer.eps=0.01"  # Adam's first steps are signs of gradients otherwise, of rounding errors too
SCRATCH = ["model=transfer", "model.backbone=resnet18", "model.weights=null"]

GOLDEN = {  # losses of the first steps on shapes, float32, seed 0; no refactor may move them
    # Fewer where batch norms over 16 values make the difference of two CPUs grow with every step.
    ("model=fcn",): [3.5487, 3.53032, 3.50944],
    ("model=fcn", WIDTHS): [3.19019, 3.24775, 3.187, 3.16444, 3.14313],
    ("model=fcn", WIDTHS, "aug=flip"): [3.19892, 3.24719, 3.18134, 3.16333, 3.12858],
    ("model=fcn", WIDTHS, "loss=weighted"): [3.36535, 3.35432, 3.29071, 3.30861, 3.30268],
    ("model=wilson", WIDTHS): [3.30968, 3.3294, 3.31191, 3.22198, 3.22473],
    ("model=unet", WIDTHS): [3.17748, 3.12967, 3.20513, 3.09756, 3.16552],
    tuple(SCRATCH): [3.50135, 3.52651],
}


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (lambda logits: logits[..., ::2, ::2], r"\(4, 21, 32, 32\)"),
        (lambda logits: torch.cat([logits, logits[:, :2]], 1), r"\(4, 23, 64, 64\)"),
        (lambda logits: {"out": logits}, "a dict"),
    ],
)
def test_a_network_that_gives_no_logits_is_refused_in_its_first_step(made, output, found):
    """A channel that no class has would be noticed only in the test, after the whole training."""
    data, task, trainer, losses = made("model=fcn", WIDTHS)
    task.net.register_forward_hook(lambda net, images, logits: output(logits))
    wanted = rf"gives {found} for images \(4, 3, 64, 64\), wanted logits \(4, 21, 64, 64\): \(N, classes, H, W\)"
    with pytest.raises(ValueError, match=wanted):
        trainer.fit(task, data)
    assert not losses


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


@pytest.fixture
def made(compose, root):
    """`made(*overrides)`: a run's data, task and trainer, and the losses of its steps once it is trained."""

    def made(*overrides):
        fixed = ["data=shapes", f"data.root={root}", "data.source.train=20", "data.source.val=6", "data.size=64"]
        trainer = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.precision=32-true"]
        cfg = compose(*fixed, "data.batch_size=4", *trainer, *overrides)
        data = build.data(cfg)
        data.prepare_data()
        seed_everything(cfg.seed, verbose=False)
        task = build.task(cfg, classes=data.classes, class_pixels=data.class_pixels)
        losses = Losses()
        return data, task, build.trainer(cfg, callbacks=[losses]), losses.values

    return made


@pytest.fixture
def task_of(compose):
    return lambda *overrides: build.task(compose(*overrides), classes=VOC, class_pixels=PIXELS)


@pytest.mark.parametrize("case", GOLDEN, ids=" ".join)
def test_the_first_losses(made, case):
    data, task, trainer, losses = made(*case, STEADY)
    trainer.fit(task, data)
    assert len(losses) == 5
    assert losses[: len(GOLDEN[case])] == pytest.approx(GOLDEN[case], rel=1e-4)


def test_four_images_are_learnt_by_heart(made):
    data, task, trainer, losses = made(
        WIDTHS, "data.size=32", "data.source.train=4", "trainer.max_epochs=60", "optimizer.lr=0.02"
    )
    trainer.fit(task, data)
    assert losses[-1] < 0.25 * losses[0]


def test_logged_metrics_are_those_of_the_predictions(made):
    data, task, trainer, _ = made(WIDTHS)
    logged = trainer.validate(task, data, verbose=False)[0]
    index = MulticlassJaccardIndex(NUM_CLASSES, ignore_index=VOID)
    task.eval()
    matrices, losses = [], []
    with torch.no_grad():
        for image, mask, _ in data.val_dataloader():
            logits = task(normalize(image))
            matrices.append(confusion(logits.argmax(1), mask, NUM_CLASSES))
            losses += [task.loss(logits, mask).item()] * len(mask)
            index.update(logits.argmax(1), torch.where(mask == VOID, VOID, mask.long()))
    direct = {f"val/{name}": score.item() for name, score in scores(torch.cat(matrices), 0).items()}
    assert logged == pytest.approx({**direct, "val/loss": sum(losses) / len(losses)}, rel=1e-5)
    assert logged["val/miou"] == pytest.approx(index.compute().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        (["model=fcn"], torch.channels_last),
        (["model=wilson", WIDTHS], torch.channels_last),
        (SCRATCH, torch.channels_last),
        (["model=unet", WIDTHS], torch.contiguous_format),
    ],
    ids=["fcn", "wilson", "transfer", "unet"],
)
def test_memory_format(task_of, model, layout):
    task = task_of(*model)
    assert task.memory_format == layout
    convolutions = [m for m in task.net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    assert all(conv.weight.is_contiguous(memory_format=layout) for conv in convolutions)


@pytest.mark.parametrize(("flags", "finite"), [([True, True], True), ([True, False], False), ([False, True], False)])
def test_one_batch_that_is_not_finite_is_enough(task_of, flags, finite):
    task = task_of("data=shapes", "model=fcn")
    task.finite["val"] = [torch.tensor(flag) for flag in flags]
    assert task.was_finite("val") == finite


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_weights_are_not_optimised(task_of, freeze):
    task = task_of(*SCRATCH, f"model.freeze={freeze}")
    optimizer = task.optimizer(task.net)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    backbone = {id(p) for p in task.net.backbone.parameters()}
    assert trained == {id(p) for p in task.net.parameters()} - (backbone if freeze else set())


class NoDouble(TorchDispatchMode):
    """Fails at any operation whose result on a device is float64, which Apple's GPUs do not have."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.device.type == self.device:
                assert value.dtype != torch.float64, func
        return result


@pytest.mark.parametrize("loss", ["ce", "weighted"])
@pytest.mark.parametrize("model", [["model=fcn", WIDTHS], ["model=unet", WIDTHS], SCRATCH], ids=lambda model: model[0])
def test_a_step_computes_nothing_in_double_precision(made, model, loss):
    data, task, _, _ = made(*model, f"loss={loss}", "aug=flip")
    assert torch.float64 not in {value.dtype for value in (*task.buffers(), *task.parameters())}
    optimizer = task.optimizer(task.net)
    data.trainer = SimpleNamespace(training=True, current_epoch=1, global_step=0)
    with NoDouble("cpu"):
        batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        for index in range(2):
            task.training_step(batch, index).backward()
            optimizer.step()
        with torch.no_grad():
            for stage in (task.validation_step, task.test_step):
                stage(batch, 0)
    with pytest.raises(AssertionError), NoDouble("cpu"):
        torch.zeros(1).double()


def test_the_final_sums_are_the_cpu_s():
    """On tensors without numbers that say they are a GPU's."""
    with FakeTensorMode(), NoDouble("cuda"):
        metrics, mean = SegmentationMetrics(VOC), RunningMean()
        metrics.update(torch.zeros(2, 4, 4, dtype=torch.long, device="cuda"), torch.zeros(2, 4, 4, device="cuda").byte())
        mean.add(torch.ones((), device="cuda"), 2)
        found = metrics.compute()
    assert {value.dtype for value in found.values()} == {torch.float64}
