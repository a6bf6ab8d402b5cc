"""The least time that a training step could take on this machine, from its operations and the machine's own peaks."""

import copy
import time
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

FREE = {  # operations that move no byte
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "expand", "permute",
    "select", "slice", "split", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip
MATMUL = {"cpu": 2048, "cuda": 8192}  # rows of the matrices whose product tells the peak of arithmetic
COPIED = {"cpu": 2**28, "cuda": 2**32}  # bytes of the copy that tells the peak of memory traffic
ADAM_BYTES = 28  # a parameter's traffic in float32: weight and two moments read and written, gradient read


class Operation(NamedTuple):
    """One operation, as it was called.

    Attributes:
        name: Torch's, such as "convolution_backward".
        shapes: Of the tensors it was given.
        flops: Floating-point operations.
        nbytes: Bytes, its inputs read and its outputs written once.
        seconds: That it took, if that was asked for.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    flops: float
    nbytes: float
    seconds: float = 0.0

    def ideal_seconds(self, *, flops: float, bandwidth: float) -> float:
        """Seconds if it were bound by arithmetic or by memory alone."""
        return max(self.flops / flops, self.nbytes / bandwidth)


class Operations(TorchDispatchMode):
    """Counts the operations that run under it; times them too, each by itself, if it is told on which device.

    On a GPU that includes an operation's launch and the wait for its end, some ten microseconds or more.
    """

    def __init__(self, timed_on: torch.device | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: list[Operation] = []
        self.timed_on = timed_on

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        inputs = _tensors((args, kwargs))
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        start = self._now()
        out = func(*args, **kwargs)
        seconds = self._now() - start
        if packet.__name__ not in FREE:
            flops = flop_registry[packet](*args, **kwargs, out_val=out) if packet in flop_registry else 0
            outputs = _tensors(_changed(func, args)) if out is None else _tensors(out)
            nbytes = sum(tensor.nbytes for tensor in [*inputs, *outputs])
            self.counted.append(Operation(packet.__name__, shapes, flops, nbytes, seconds))
        return out

    def _now(self) -> float:
        if self.timed_on is None:
            return 0.0
        _wait(self.timed_on)
        return time.perf_counter()


def _changed(func: Any, args: tuple[Any, ...]) -> list[Any]:
    """The arguments that `func` changes in place."""
    return [value for argument, value in zip(func._schema.arguments, args, strict=False) if argument.is_write]


def _tensors(values: Any) -> list[Tensor]:
    return list({id(value): value for value in tree_leaves(values) if isinstance(value, Tensor)}.values())


def step_operations(
    net: nn.Module, loss: nn.Module, *, batch_size: int, size: int, dtype: torch.dtype
) -> list[Operation]:
    """Every operation of a training step, counted on shapes alone, without any arithmetic.

    Args:
        net: (N, 3, H, W) images to (N, C, H, W) logits.
        loss: Of logits and mask.
        batch_size: N.
        size: H and W.
        dtype: What the network computes in; the loss and the optimiser compute in float32.
    """
    net, loss = copy.deepcopy(net).to("meta", dtype).train(), copy.deepcopy(loss).to("meta")
    image = torch.empty(batch_size, 3, size, size, device="meta", dtype=dtype)
    mask = torch.empty(batch_size, size, size, device="meta", dtype=torch.uint8)
    with Operations() as operations:
        loss(net(image), mask).backward()
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return [*operations.counted, Operation("adam", (), 0, trained * ADAM_BYTES)]


def ideal_seconds(operations: list[Operation], *, flops: float, bandwidth: float) -> float:
    """Seconds if every operation were bound by arithmetic or by memory alone, one after the other."""
    return sum(operation.ideal_seconds(flops=flops, bandwidth=bandwidth) for operation in operations)


def machine_peaks(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of a large matrix product, and bytes/s, read and written, of a large copy: the best of several."""
    rows, copied = MATMUL[device.type], COPIED[device.type]
    left, right = (torch.randn(rows, rows, device=device).to(dtype) for _ in range(2))
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    precise = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # TF32 where there is one: CUDA's convolutions take it by themselves
    flops = 2 * rows**3 / min(seconds(lambda: left @ right, device))
    torch.set_float32_matmul_precision(precise)
    return {"flops": flops, "bandwidth": 2 * copied / min(seconds(lambda: target.copy_(source), device))}


def seconds(job: Any, device: torch.device, repeats: int = 10) -> list[float]:
    """Wall-clock seconds of each of `repeats` calls, after one that is not counted."""
    times = []
    for _ in range(1 + repeats):
        _wait(device)
        start = time.perf_counter()
        job()
        _wait(device)
        times.append(time.perf_counter() - start)
    return times[1:]


def typical(job: Any, device: torch.device, repeats: int = 10) -> float:
    """The median of `seconds`."""
    return median(seconds(job, device, repeats))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
