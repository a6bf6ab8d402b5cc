"""The path of a batch on a GPU, shown without one: fake CUDA tensors have a device and a shape, and no values.

A tensor that is left on the CPU raises an error, and so does whatever waits for the GPU to read a value: `.item()`, a boolean
mask, `nonzero`. Fake tensors know no backward pass on a machine without a GPU.
"""

from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from fcnseg import build
from fcnseg.cli.configs import CONF
from fcnseg.data import batch as batches
from fcnseg.data.augment import EpochDraws
from fcnseg.data.loader import Loader
from fcnseg.data.transforms import colour_bases
from fcnseg.data.voc import VOC
from fcnseg.report.galleries import pixels

CUDA = torch.device("cuda")
CHOICES = [f"{group}={path.stem}" for group in ("model", "aug", "loss") for path in sorted((CONF / group).glob("*.yaml"))]
SHORT = {"widths": [4, 8], "backbone": "mobilenet_v3_small", "weights": None}


@pytest.fixture
def fake():
    """A mode in which new tensors are fake. Those that are kept for the next batch are not taken in or out of it."""
    for kept in (batches._statistics, colour_bases):
        kept.cache_clear()
    yield FakeTensorMode()
    for kept in (batches._statistics, colour_bases):
        kept.cache_clear()


def moved(task):
    """The task with fake weights on the GPU. (`.to` cannot move between real and fake tensors.)"""
    for module in task.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)
                    own[name] = torch.nn.Parameter(empty) if own is module._parameters else empty
    return task


def batch(augment):
    """A batch as the loader and the data module make it from a pack on the GPU."""
    images, masks = (torch.zeros(shape, dtype=torch.uint8, device=CUDA) for shape in ((6, 64, 64, 3), (6, 64, 64)))
    loader = Loader(SimpleNamespace(images=images, masks=masks), torch.arange(6), batch_size=4, seed=None, step=int)
    image, mask, sample = next(iter(loader))
    image, mask = augment(image, mask, EpochDraws(0, 0, 6, CUDA).of(sample))
    return batches.Batch(batches.normalize(image), mask, sample)


@pytest.mark.parametrize("choice", CHOICES)
def test_no_step_leaves_a_tensor_on_the_cpu_or_waits_for_the_gpu(compose, fake, choice):
    if choice == "model=smp":
        pytest.importorskip("segmentation_models_pytorch")
    cfg = compose(choice, "data.size=64").copy()
    cfg.model.update({key: value for key, value in SHORT.items() if key in cfg.model})
    task = build.task(cfg, classes=VOC, class_pixels=torch.ones(21, dtype=torch.int64))
    with fake, torch.no_grad():
        moved(task)
        made = batch(instantiate(cfg.aug))
        loss = task.training_step(made, 0)
        labels = task.eval().validation_step(made, 0)
        task.test_step(made, 0)
        shown, matrices = batches.denormalize(made.image), task.metrics["val"].all_matrices()
    details = task.details
    found = [*details.matrices, *details.calibration, *details.softmin, *details.near, *details.boundary]
    kept = [*task.finite["val"], *(value for mean in task.losses.values() for value in mean.values), *found]
    assert len(kept) == 9
    assert torch.float64 not in {tensor.dtype for tensor in kept}
    assert {tensor.device.type for tensor in (*made, loss, labels, shown, matrices, *kept)} == {"cuda"}
    assert (labels.shape, matrices.shape) == ((4, 64, 64), (4, 22, 21))


def test_larger_images_are_brought_to_their_size_on_the_gpu(fake):
    with fake:
        made = batches.resize(batch(lambda image, mask, draw: (image, mask)), (32, 48))
    assert (made.image.shape, made.mask.shape) == ((4, 3, 32, 48), (4, 32, 48))
    assert (made.image.device.type, made.mask.device.type, made.mask.dtype) == ("cuda", "cuda", torch.uint8)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda x: x.sum().item(), DataDependentOutputException),
        (lambda x: x[x > 0], DynamicOutputShapeException),
        (lambda x: x + torch.ones(6), RuntimeError),
    ],
    ids=["item", "boolean mask", "left on the CPU"],
)
def test_such_a_fault_would_be_seen(fake, fault, error):
    with fake, pytest.raises(error):
        fault(torch.ones(6, device=CUDA))


def test_the_pictures_of_a_run_are_made_on_the_cpu():
    """Its packs may be on the GPU, from which NumPy cannot read."""
    with FakeTensorMode():
        images, masks = (torch.zeros(shape, dtype=torch.uint8, device=CUDA) for shape in ((2, 8, 8, 3), (2, 8, 8)))
        pack = SimpleNamespace(images=images, masks=masks, names=("a", "b"))
        shown = pixels(SimpleNamespace(packs={"val": pack}, stages={"test": ("val", None)}), "b")
        assert [(part.device.type, part.shape) for part in shown] == [("cpu", (3, 8, 8)), ("cpu", (8, 8))]
