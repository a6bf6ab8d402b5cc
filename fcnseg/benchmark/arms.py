"""The arms: the same network, weights, images, batch size and order, trained in different ways."""

import time
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning import Trainer

from fcnseg import build
from fcnseg.benchmark.clock import Clock, ClockCallback, peak_memory
from fcnseg.benchmark.conventional import StockModule, cross_entropy, image_loader, of_stock_layers
from fcnseg.benchmark.process import Link, Plan
from fcnseg.callbacks.finite_loss import FiniteLoss
from fcnseg.data.module import VOCDataModule
from fcnseg.task import SegmentationTask


class Ready(NamedTuple):
    """What every arm starts from."""

    plan: Plan
    data: VOCDataModule
    task: SegmentationTask
    clock: Clock


def device_of(accelerator: str) -> torch.device:
    """Where Lightning would train."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def prepare_data(plan: Plan) -> VOCDataModule:
    """The data, its train split as long as a block: the first images, from the start again if there are too few."""
    data = build.data(plan.cfg)
    data.prepare_data()
    images = torch.arange(plan.batches * data.batch_size) % data.count("train")
    data.parts["train"] = ("train", images)
    return data


def build_task(plan: Plan, data: VOCDataModule) -> SegmentationTask:
    """The task, its weights drawn from the seed: the same in every process."""
    torch.manual_seed(plan.cfg.seed)
    return build.task(plan.cfg, num_classes=data.num_classes, class_pixels=data.class_pixels)


def work(link: Link, name: str, plan: Plan) -> None:
    """Train one arm, a block whenever the parent process asks for one; then tell the peak of memory."""
    started = time.perf_counter()
    device = device_of(plan.cfg.trainer.accelerator)
    data = prepare_data(plan)
    packed = time.perf_counter()
    task = build_task(plan, data)
    cold = {"pack": packed - started, "build": time.perf_counter() - packed}
    link.send({"cold": cold, "precision": precision_of(name, plan), "device": device_name(device)})
    ARMS[name](Ready(plan, data, task, Clock(link, plan, device)))
    link.send(peak_memory(device))


def precision_of(name: str, plan: Plan) -> str:
    """What an arm computes in."""
    trainer = plan.cfg.trainer
    return build.precision(trainer.precision, trainer.accelerator) if name in OURS else "32-true"


def device_name(device: torch.device) -> str:
    """For the table."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def _conventional(ready: Ready) -> tuple[torch.nn.Module, torch.nn.Module, Callable[[Any], Any]]:
    """Network, loss and optimiser as torch has them."""
    task = ready.task
    loss: Any = task.loss
    optimizer: Any = task.optimizer  # a partial of torch's
    return (
        of_stock_layers(task.net),
        cross_entropy(loss.weight if loss.weighted else None),
        partial(optimizer.func, lr=optimizer.keywords["lr"]),
    )


def plain(ready: Ready) -> None:
    """A loop in plain PyTorch, which reads the loss after every step."""
    device, clock = ready.clock.device, ready.clock
    net, criterion, make_optimizer = _conventional(ready)
    net, criterion = net.to(device).train(), criterion.to(device)
    optimizer = make_optimizer(net.parameters())
    loader = image_loader(ready.data, device)
    running = 0.0
    for _ in range(ready.plan.blocks):
        clock.begin()
        for image, mask in loader:
            image, mask = image.to(device), mask.to(device)
            optimizer.zero_grad()
            loss = criterion(net(image), mask)
            loss.backward()
            optimizer.step()
            running += loss.item()
            clock.step(loss)


def lightning(ready: Ready) -> None:
    """The same in a stock Lightning module, with Lightning's defaults."""
    module = StockModule(*_conventional(ready))
    settings = ready.plan.cfg.trainer
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=ready.plan.blocks,
            accelerator=settings.accelerator,
            devices=settings.devices,
            default_root_dir=folder,
            callbacks=[ClockCallback(ready.clock)],
        )
        trainer.fit(module, image_loader(ready.data, ready.clock.device))


def fcnseg(ready: Ready) -> None:
    """This package, as `python -m fcnseg.train` trains, without what it does between epochs: validation and saving."""
    trainer = build.trainer(ready.plan.cfg, callbacks=[FiniteLoss(), ClockCallback(ready.clock)])
    trainer.limit_val_batches = 0
    trainer.fit(ready.task, ready.data)


def everything(ready: Ready) -> None:
    """This package with its network compiled as well."""
    ready.task.net.compile()
    fcnseg(ready)


ARMS: dict[str, Callable[[Ready], None]] = {
    "plain": plain,
    "lightning": lightning,
    "fcnseg": fcnseg,
    "everything": everything,
}
OURS = ("fcnseg", "everything")
