"""A training step by itself: timed, counted operation by operation, and beside the least time that the machine allows.

This least time is the roofline: each operation, one after the other, is bound by the machine's peak of arithmetic or of
memory traffic.
"""

import copy
from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import itemgetter
from statistics import median
from timeit import timeit
from typing import Any, NamedTuple

import torch
from lightning import Fabric
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fcnseg import build
from fcnseg.benchmark.tables import Row
from fcnseg.data.batch import Batch
from fcnseg.data.module import DataModule
from fcnseg.data.settings import Size, sides
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.limits import cores, keep_freed_memory
from fcnseg.machine.precision import processor
from fcnseg.results.costs import now

FLAGS = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")  # the instructions that multiply, the last two in bfloat16
DTYPES = {"32-true": torch.float32}  # the type that a precision computes in; it is bfloat16 for all others
LISTED = 12  # the number of operations that are shown one by one
SUMMED = ("calls", "ms", "ideal_ms", "lost_ms")  # the figures that are added up for all others, and for all
UNREAD = ("_unsafe_view", "empty", "empty_like")  # these move no byte, though torch does not call them views
MATMUL = {"cpu": 2048, "cuda": 8192}  # the rows of the matrices whose product shows the peak of arithmetic
COPIED = {"cpu": 2**28, "cuda": 2**32}  # the bytes of the copy that shows the peak of memory traffic
ADAM_BYTES = 28  # a parameter's traffic in float32: weight and two moments read and written, gradient read

Job = Callable[[], object]


def fabric_of(cfg: DictConfig) -> Fabric:
    """The device that `cfg` trains on and the precision that it trains in."""
    return Fabric(**{key: cfg.trainer[key] for key in ("accelerator", "devices", "precision")})


def task_of(cfg: DictConfig, data: DataModule) -> SegmentationTask:
    """The task, with weights drawn from the seed: the same ones in every process."""
    torch.manual_seed(cfg.seed)
    return build.task(cfg, classes=data.classes, class_pixels=data.class_pixels)


def prepare(cfg: DictConfig) -> tuple[DataModule, SegmentationTask, Fabric, Batch]:
    """The data, the task on its device, the device and the precision, and the first batch on the device, normalised."""
    keep_freed_memory()  # as a run does
    data, fabric = build.data(cfg), fabric_of(cfg)
    data.prepare_data()
    batch = data.on_after_batch_transfer(fabric.to_device(next(iter(data.train_dataloader()))), 0)
    return data, task_of(cfg, data).to(fabric.device).train(), fabric, batch


def bare_step(task: SegmentationTask, batch: Batch, fabric: Fabric) -> Callable[[], Tensor]:
    """A training step on one batch, without Lightning's Trainer; it returns the loss."""
    optimizer = task.optimizer(task.net)

    def step() -> Tensor:
        optimizer.zero_grad()
        with fabric.autocast():
            loss: Tensor = task.loss(task(batch.image), batch.mask)
        loss.backward()
        optimizer.step()
        return loss

    return step


def seconds(*jobs: Job, device: torch.device, repeats: int = 10, of: Callable[..., float] = median) -> list[float]:
    """The median seconds of each job, or their minimum (`of=min`); the jobs take turns, and their first calls do not count."""
    turns = [[timeit(job, timer=partial(now, device), number=1) for job in jobs] for _ in range(1 + repeats)]
    return [of(taken) for taken in zip(*turns[1:], strict=True)]


class Operation(NamedTuple):
    """One call of an operation.

    Attributes:
        name: Its name in torch, such as "convolution_backward".
        shapes: The shapes of the tensors that it takes.
        flops: The floating-point operations that it does.
        nbytes: The bytes that it moves if it reads its inputs and writes its outputs once.
        seconds: The time that it took.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    flops: float
    nbytes: float
    seconds: float


class Operations(TorchDispatchMode):
    """Counts the operations that run in its `with` block, and times each by itself.

    It waits for `device` before and after every operation: on a GPU, the time of an operation includes its launch and the
    wait for its end, ten microseconds or more. On "meta", operations do nothing and are counted.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.counted: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        inputs = _tensors((args, kwargs))
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        start = now(self.device)
        out = func(*args, **kwargs)
        taken = now(self.device) - start
        # A view shares the memory of its input.
        if not func.is_view and packet.__name__ not in UNREAD:
            flops = flop_registry[packet](*args, **kwargs, out_val=out) if packet in flop_registry else 0
            changed = [value for value, spec in zip(args, func._schema.arguments, strict=False) if spec.is_write]
            nbytes = sum(tensor.nbytes for tensor in [*inputs, *_tensors(changed if out is None else out)])
            self.counted.append(Operation(packet.__name__, shapes, flops, nbytes, taken))
        return out


def _tensors(values: Any) -> list[Tensor]:
    return list({id(value): value for value in tree_leaves(values) if isinstance(value, Tensor)}.values())


def step_operations(net: nn.Module, loss: nn.Module, *, batch_size: int, size: Size, dtype: torch.dtype) -> list[Operation]:
    """Every operation of a training step on `batch_size` images, counted on shapes alone, without any arithmetic.

    The network, from (N, 3, H, W) images to (N, C, H, W) logits, computes in `dtype`; the loss of logits and mask, and the
    optimiser, compute in float32.
    """
    net, loss = copy.deepcopy(net).to("meta", dtype).train(), copy.deepcopy(loss).to("meta")
    image = torch.empty(batch_size, 3, *sides(size), device="meta", dtype=dtype)
    mask = torch.empty(batch_size, *sides(size), device="meta", dtype=torch.uint8)
    with Operations(image.device) as counting:
        loss(net(image), mask).backward()
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return [*counting.counted, Operation("adam", (), 0, trained * ADAM_BYTES, 0)]


def ideal_seconds(operations: list[Operation], *, flops: float, bandwidth: float) -> float:
    """The seconds of operations that run one after the other, each bound by arithmetic or by memory alone."""
    return sum(max(operation.flops / flops, operation.nbytes / bandwidth) for operation in operations)


def machine_peaks(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of a large matrix product, and bytes/s, read and written, of a large copy: the best of several."""
    rows, copied = MATMUL[device.type], COPIED[device.type]
    left, right = (torch.randn(rows, rows, device=device).to(dtype) for _ in range(2))
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # TF32 where there is one, which CUDA's convolutions take by themselves. The process does nothing else afterwards.
    torch.set_float32_matmul_precision("high")
    product_s, copy_s = seconds(lambda: left @ right, lambda: target.copy_(source), device=device, of=min)
    return {"flops": 2 * rows**3 / product_s, "bandwidth": 2 * copied / copy_s}


def machine() -> Row:
    """The machine and the version of torch that are measured."""
    gpu, capabilities = torch.cuda.get_device_name() if torch.cuda.is_available() else None, torch.cpu.get_capabilities()
    flags = ", ".join(flag for flag in FLAGS if capabilities.get(flag))
    return {"gpu": gpu, "processor": processor() or "unknown", "cores": cores(), "flags": flags, "torch": torch.__version__}


def limits(cfg: DictConfig) -> Row:
    """The images/s that this machine could train at the most, in each precision that an arm trains in."""
    data, task, fabric, _ = prepare(cfg)
    speeds = {}
    for precision in dict.fromkeys((cfg.trainer.precision, "32-true")):
        dtype = DTYPES.get(precision, torch.bfloat16)
        counted = step_operations(task.net, task.loss, batch_size=data.batch_size, size=data.size, dtype=dtype)
        speeds[precision] = data.batch_size / ideal_seconds(counted, **machine_peaks(fabric.device, dtype))
    return speeds


def operations(cfg: DictConfig) -> list[Row]:
    """The milliseconds of a step and of its operations, where calls of one operation on the same shapes are added up."""
    _, task, fabric, batch = prepare(cfg)
    step = bare_step(task, batch, fabric)
    (step_s,) = seconds(step, device=fabric.device, repeats=cfg.repeats)
    with Operations(fabric.device) as counting:
        for _ in range(cfg.repeats):
            step()
    kind, peaks = itemgetter(0, 1), machine_peaks(fabric.device, DTYPES.get(cfg.trainer.precision, torch.bfloat16))
    kinds = [list(calls) for _, calls in groupby(sorted(counting.counted, key=kind), kind)]
    rows = sorted((_row(calls, cfg.repeats, peaks) for calls in kinds), key=lambda row: -row["lost_ms"])
    others, whole = ({key: sum(row[key] for row in some) for key in SUMMED} for some in (rows[LISTED:], rows))
    sums = [{"name": "the others", **others}, {"name": "all", **whole}, {"name": "the step", "ms": 1e3 * step_s}]
    return [*rows[:LISTED], *sums]


def _row(calls: list[Operation], repeats: int, peaks: dict[str, float]) -> Row:
    """The figures of one step for an operation on tensors of the same shapes, from its calls in `repeats` steps."""
    name, shapes = calls[0][:2]
    in_a_step = len(calls) // repeats
    ms = 1e3 * in_a_step * median(call.seconds for call in calls)
    ideal_ms = 1e3 * ideal_seconds(calls, **peaks) / repeats
    tensors = "  ".join("x".join(map(str, shape)) for shape in shapes[:3] if shape)
    return {"name": name, "calls": in_a_step, "ms": ms, "ideal_ms": ideal_ms, "lost_ms": ms - ideal_ms, "tensors": tensors}
