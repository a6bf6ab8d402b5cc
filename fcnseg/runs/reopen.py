"""A finished run, made ready to be tested again: its data, its task and a trainer.

As in `stored_network`, no code that the folder names is run without `trust`. This package's losses and data sets are known.
Only those of the trainer's values that matter in a test are used. Nothing is downloaded, and nothing is written in a place that
only the config names.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn, cast

import torch
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from fcnseg import build
from fcnseg.data import download, formats, sbd, shapes
from fcnseg.data.augment import Chain
from fcnseg.data.module import DataModule
from fcnseg.learning import losses
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.files import nothing_built, sha256
from fcnseg.models.layers import memory_format
from fcnseg.models.tta import averaged
from fcnseg.names import BEST
from fcnseg.runs.checkpoint_files import check_weights
from fcnseg.runs.folder import Run
from fcnseg.runs.stored_network import group, is_module_of, load, made_by, make
from fcnseg.settings.lightning import FLOAT16, long_name
from fcnseg.texts import warn

# The losses that are made without `trust`.
LOSSES = tuple(f"{losses.__name__}.{name}" for name, loss in vars(losses).items() if is_module_of(loss, losses.__name__))
# The data sets that are made without `trust`: those of the configs in `conf/data`.
DATA_SETS = (DataModule, download.voc2012, formats.folder, sbd.sbd, shapes.shapes)
TARGETS = tuple(f"{made.__module__}.{made.__name__}" for made in DATA_SETS)
# Settings of a trainer that matter in a test.
TRAINER = ("accelerator", "precision", "deterministic", "benchmark", "inference_mode")


def check_best(run: Run) -> None:
    """Refuse a run whose best checkpoint is not the one that gave its result.

    Raises:
        ValueError: The run has no result, or the hashes differ.
    """
    best, _, result = run.checkpoints / BEST, run.config, run.result  # `config` refuses a folder without a run
    if result is None:
        raise ValueError(f"{run.path} has no result.json, so it has not finished: finish it, or give verify=false")
    wanted, found = result["checkpoint"]["sha256"], sha256(best) if best.is_file() else "no such file"
    if found != wanted:
        raise ValueError(
            f"{best} is not the checkpoint of this run's result (sha256 {found}, wanted {wanted}): verify=false tests it"
        )


def task(
    folder: str | Path, data: DataModule, *, tta: str = "none", at_original: bool = False, trust: bool = False
) -> SegmentationTask:
    """Rebuild a run's network and loss, with the best weights, as a task to validate and test; it cannot train.

    Args:
        folder: The folder of the run.
        data: The data to score the network on.
        tta: Test-time augmentation: none, flip or multiscale.
        at_original: Whether images are scored at their own sizes, and not at that of a batch.
        trust: Whether the config may name any code.

    Raises:
        ValueError: See `stored_network.load`; or the data have other classes.
    """
    run = Run(Path(folder))
    cfg, net, classes, state = load(folder, trust=trust)
    classes.check_same(data.classes, str(run.path))
    with made_by(run):
        # One image set has no train set: any pixels are enough, since the checkpoint has the loss's weights.
        pixels = torch.ones(len(classes)) if data.only else data.class_pixels
        loss = make(group(cfg, "loss"), LOSSES, trust, class_pixels=pixels)
        never, layout = _cannot_train, memory_format(net)
        rebuilt = SegmentationTask(net, loss=loss, optimizer=never, schedule=never, classes=classes, memory_format=layout)
        check_weights(state, rebuilt, run.checkpoints / BEST)
    rebuilt.load_state_dict(state)
    rebuilt.net = averaged(rebuilt.net, tta)
    if at_original:
        rebuilt.details.original_masks = data.original_masks
    return rebuilt.eval()


def _cannot_train(*_: object) -> NoReturn:
    """Stand in for the optimiser and the schedule, which a test does not need."""
    raise ValueError("a rebuilt run cannot be trained: train its network in a task of your own")


def data(
    cfg: DictConfig,
    *,
    root: str | None = None,
    only: str | None = None,
    floor_class: str | None = None,
    trust: bool = False,
) -> DataModule:
    """The data of `cfg.data`, ready for a test; nothing is downloaded.

    Args:
        cfg: The config of a run.
        root: The folder in which the data set is now, in which packs may be written; None: the one that the run was trained
            from, in which nothing is written.
        only: The one image set to score on; None: the one that the run was tested on.
        floor_class: The class that the floor predicts, which is known from train; None, or a class that the data do not have:
            the one of these data.
        trust: Whether the config may name any code.

    Raises:
        ValueError: The data set is not there, or `cfg` names a data set that is not of this package and `trust` is missing.
    """
    node = group(cfg, "data")
    if root is not None:
        node["root"] = root
        node.pop("cache", None)  # packs are beside the data, not in a place that only the config names
    if "download" in node:
        node["download"] = False
    if isinstance(source := node.get("source"), dict):
        source.update({key: [] for key in source if str(key).endswith("urls")})
    made = cast(DataModule, make(node, TARGETS, trust, augment=Chain(), seed=0, only=only))
    made.trains = False  # no argument, which a data module of the user's own might not take
    with nullcontext() if root else nothing_built():
        made.prepare_data()
    if floor_class in made.classes.names:
        made.floor_class = made.classes.names.index(floor_class)
    return made


def trainer(cfg: DictConfig, *, kept_precision: str | None) -> Trainer:
    """A trainer for the test of a run on one device: the CPU if the run asked for it, else the best device.

    Args:
        cfg: The config of the run. Only those of its trainer's values that matter in a test are used.
        kept_precision: The precision of the run's result; None for the precision of `cfg`.

    Raises:
        ValueError: One of the values names a class.
    """
    own = {key: cfg.trainer[key] for key in TRAINER if key in cfg.trainer}
    if "_target_" in f"{own} {kept_precision}":
        raise ValueError(f"the config or the result of the run names a class in its trainer, wanted plain values: {own}")
    asked = own.pop("accelerator", "auto")
    where = {"accelerator": "cpu" if asked == "cpu" else "auto", "devices": 1}  # one device gives the same result as several
    plain = OmegaConf.create({"trainer": {"_target_": "lightning.Trainer", **own, **where}})
    made = build.trainer(plain, kept_precision=kept_precision)
    if asked not in ("cpu", "auto") and made.strategy.root_device.type == "cpu":
        warn(f"this machine does not have trainer.accelerator={asked} of the run: it is tested on the CPU")
    if made.precision == "bf16-mixed" and long_name(of_run := kept_precision or own.get("precision")) == FLOAT16:
        warn(f"a CPU has no float16: the run of trainer.precision={of_run} is tested in bf16-mixed, and its scores may differ")
    return made
