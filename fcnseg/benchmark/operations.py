"""A training step, operation by operation: how long each takes, and how long it would take at the machine's peaks."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import median

import torch

from fcnseg import build, limits
from fcnseg.benchmark.arms import build_task, device_of, prepare_data
from fcnseg.benchmark.process import Link, Plan
from fcnseg.benchmark.roofline import Operation, Operations, machine_peaks, typical

WARMUP = 2  # steps until memory and kernels are there
Kind = tuple[str, tuple[tuple[int, ...], ...]]  # an operation's name, and the shapes of its tensors


def operations(link: Link, plan: Plan) -> None:
    """Answers milliseconds of a step, and of its operations, those called with the same shapes together."""
    limits.keep_freed_memory()
    device = device_of(plan.cfg.trainer.accelerator)
    reduced = build.precision(plan.cfg.trainer.precision, plan.cfg.trainer.accelerator) != "32-true"
    step = _step_of(plan, device, reduced)
    for _ in range(WARMUP):
        step()
    whole = typical(step, device, repeats=plan.repeats)
    rounds = []
    for _ in range(plan.repeats):
        with Operations(timed_on=device) as counted:
            step()
        rounds.append(_alike(counted.counted))
    peaks = machine_peaks(device, torch.bfloat16 if reduced else torch.float32)
    rows = [
        {
            "name": name,
            "shapes": [list(shape) for shape in shapes],
            "calls": len(calls),
            "ms": 1e3 * median(sum(call.seconds for call in alike[name, shapes]) for alike in rounds),
            "ideal_ms": 1e3 * sum(call.ideal_seconds(**peaks) for call in calls),
        }
        for (name, shapes), calls in rounds[0].items()
    ]
    link.send({"step_ms": whole * 1e3, "operations": sorted(rows, key=lambda row: row["ideal_ms"] - row["ms"])})


def _alike(counted: list[Operation]) -> Mapping[Kind, list[Operation]]:
    groups: dict[Kind, list[Operation]] = defaultdict(list)
    for operation in counted:
        groups[operation.name, operation.shapes].append(operation)
    return groups


def _step_of(plan: Plan, device: torch.device, reduced: bool) -> Callable[[], None]:
    """A training step on one batch, without Lightning."""
    data = prepare_data(plan)
    task = build_task(plan, data).to(device)
    raw = next(iter(data.train_dataloader()))
    image, mask, _ = data.on_after_batch_transfer(raw._replace(image=raw.image.to(device), mask=raw.mask.to(device)), 0)
    optimizer = task.optimizer(task.net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
            loss = task.loss(task(image), mask)
        loss.backward()
        optimizer.step()

    return step
