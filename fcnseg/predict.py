"""Masks of new photographs: `python -m fcnseg.predict run=runs/<name> images=photos out=masks`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from fcnseg.cli.command import command
from fcnseg.cli.messages import tell
from fcnseg.errors import RunFailedError, check_choice
from fcnseg.machine.threads import with_progress
from fcnseg.runs.folder import Run
from fcnseg.texts import counted, warn

if TYPE_CHECKING:
    from fcnseg.inference.masks import MaskFolder
    from fcnseg.inference.segmenter import Segmenter

FORMATS = ("masks", "voc")  # the values of the setting `format`
LOADED = ("tta", "tile", "overlap", "batch_size", "trust")  # the settings that `inference.load` takes
WRITTEN = ("overlay", "scores", "oriented")  # the settings of the written files and their orientation


@command("predict")
def predict(cfg: DictConfig) -> None:
    """Write the mask of every photograph that has none yet; name the files that are no photographs, or broken ones."""
    check_choice("format", cfg.format, FORMATS)
    run, out = Run(Path(str(cfg.run))), Path(str(cfg.out))
    config = run.config
    from fcnseg import inference
    from fcnseg.data import decode
    from fcnseg.inference import submission
    from fcnseg.inference.masks import MaskFolder, key_of
    from fcnseg.inference.photographs import photographs

    files, others = photographs(str(cfg.images), without=out)
    for path in others:
        warn(f"{path} is skipped: photographs are {', '.join(decode.READABLE)} files")
    segmenter = inference.load(run.path, **{key: cfg[key] for key in LOADED}).to(cfg.device)
    folder = out / submission.place(config, segmenter.classes, str(cfg.images)) if cfg.format == "voc" else out
    key, wanted = key_of(run, segmenter, oriented=cfg.oriented), {name: cfg[name] for name in WRITTEN}
    masks = MaskFolder(folder=folder, beside=out, key=key, **wanted)
    masks.check_places(files, overwrite=cfg.overwrite)
    broken = write(masks, segmenter, files)
    if cfg.table:
        tell(f"the classes' shares are in {masks.write_shares(files, segmenter.classes)}")
    if broken:
        raise RunFailedError(f"{broken} of {counted(len(files), 'photograph')} could not be read, the others are done")
    if cfg.format == "voc":
        tell(
            f"{submission.archive(out, folder, files)} is what VOC's server takes: {counted(len(files), 'indexed mask')}, one"
            f" for each image of {cfg.images}, each of its photograph's size with labels 0..{len(segmenter.classes) - 1}"
        )


def write(masks: "MaskFolder", segmenter: "Segmenter", files: Mapping[str, Path]) -> int:
    """Write the masks that are not there yet, and say where they are; return the number of photographs that are broken."""
    todo = {name: path for name, path in files.items() if not masks.has(name, path)}
    began, broken = time.perf_counter(), 0
    for error in with_progress(masks.write(segmenter, todo), "Predicting", len(todo)):
        if error:
            warn(str(error))
            broken += 1
    rate = f"; {len(todo) / (time.perf_counter() - began):.1f} images/s" if todo else ""
    there = len(files) - len(todo)
    before = f", {counted(there, 'of them was', 'of them were')} there already" if there else ""
    tell(f"{counted(len(files) - broken, 'mask is', 'masks are')} in {masks.folder}{before}{rate}")
    return broken


if __name__ == "__main__":
    predict()
