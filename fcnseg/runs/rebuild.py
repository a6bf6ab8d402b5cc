"""A trained network, rebuilt from its run folder."""

from pathlib import Path

import torch
from hydra.errors import HydraException
from omegaconf import DictConfig

from fcnseg import build
from fcnseg.data.voc import NUM_CLASSES
from fcnseg.runs.checkpoint import load_weights
from fcnseg.runs.folder import Run
from fcnseg.runs.provenance import code
from fcnseg.task import SegmentationTask


def load(path: str | Path, checkpoint: str = "best") -> tuple[DictConfig, SegmentationTask]:
    """Rebuild a run from its folder, on the CPU.

    Args:
        path: The folder of the run, such as runs/<name>.
        checkpoint: The name of the checkpoint whose weights are loaded: best, last or previous.

    Returns:
        The run's config, and its task in evaluation mode.

    Raises:
        ValueError: there is no run in this folder, no such checkpoint, or this version cannot rebuild it.
    """
    run = Run(Path(path))
    cfg = run.config
    if "weights" in cfg.model:
        cfg.model.weights = None  # the checkpoint has them
    placeholder = torch.ones(NUM_CLASSES + 1)  # the checkpoint has the loss's class weights, too
    try:
        task = build.task(cfg, num_classes=NUM_CLASSES, class_pixels=placeholder)
        load_weights(task, run.checkpoints / f"{checkpoint}.ckpt")
    except (ValueError, HydraException) as error:
        made_by, now = (run.result or {}).get("commit"), code()["commit"]
        if made_by is None or made_by == now:
            raise
        raise ValueError(f"{error}\nThe run was made by commit {made_by} of fcnseg, which can evaluate it.") from error
    return cfg, task.eval()
