"""A trained network, rebuilt from its run folder."""

from pathlib import Path

import torch
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fcnseg import build
from fcnseg.data.voc import NUM_CLASSES
from fcnseg.runs.checkpoint import check_weights, read
from fcnseg.runs.folder import Run
from fcnseg.runs.provenance import code
from fcnseg.task import SegmentationTask


def load(folder: str | Path, checkpoint: str = "best") -> tuple[DictConfig, SegmentationTask]:
    """Rebuild a run from its folder, on the CPU.

    Args:
        folder: The folder of the run, such as runs/<name>.
        checkpoint: The name of the checkpoint whose weights are loaded: best, last or previous.

    Returns:
        The run's config, and its task in evaluation mode.

    Raises:
        ValueError: there is no run in this folder, no such checkpoint, or this version cannot rebuild it.
    """
    run = Run(Path(folder))
    cfg = run.config
    if "weights" in cfg.model:
        cfg.model.weights = None  # the checkpoint has them
    placeholder = torch.ones(NUM_CLASSES + 1)  # the loss's class weights come with the checkpoint, too
    path = run.checkpoints / f"{checkpoint}.ckpt"
    state = read(path)["state_dict"]
    try:
        task = build.task(cfg, num_classes=NUM_CLASSES, class_pixels=placeholder)
        check_weights(state, task, path)
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        made_by, now = (run.result or {}).get("commit"), code()["commit"]
        if made_by is None or made_by == now:
            raise
        raise ValueError(f"{error}\nThe run was made by commit {made_by} of fcnseg, which can evaluate it.") from error
    task.load_state_dict(state)
    return cfg, task.eval()
