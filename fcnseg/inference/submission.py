"""The archive that PASCAL VOC's evaluation server takes: masks of all images of an image set, checked as the server would."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fcnseg.data import voc
from fcnseg.data.dataset import Classes
from fcnseg.errors import first_of
from fcnseg.inference.photographs import image_set
from fcnseg.machine.files import replacing
from fcnseg.runs.settings import flatten


def place(config: Mapping[str, Any], classes: Classes, images: str) -> Path:
    """Where masks are in the archive.

    It is competition 5's folder if the run has seen nothing but VOC's own images; else that of 6, which allows other images.

    Args:
        config: The config of the run.
        classes: The classes that the run's network tells apart.
        images: The list of the image set, in VOC's ImageSets/Segmentation.

    Raises:
        ValueError: The classes are not VOC's, or `images` is no such list.
    """
    voc.VOC.check_same(classes, "VOC's server")
    if not (found := image_set(images)):
        raise ValueError(
            f"format=voc images={images}: wanted the list of an image set, <VOC2012>/ImageSets/Segmentation/test.txt"
        )
    pretrained = any(key.split(".")[-1] == "weights" and value for key, value in flatten(config["model"]).items())
    competition = 6 if pretrained or config["choices"]["data"] != "voc2012" else 5
    return Path("results", "VOC2012", "Segmentation", f"comp{competition}_{found[1]}_cls")


def archive(top: Path, masks: Path, photographs: Mapping[str, Path]) -> Path:
    """Pack the masks into `results.tgz`.

    Args:
        top: The folder that the archive's paths begin in, and that it is written into.
        masks: The folder of the masks, which is `place` below it.
        photographs: The photograph of each image of the image set.

    Raises:
        ValueError: A mask is missing, belongs to no image of the set, is no indexed PNG, or has another size or labels;
            the message names all of them.
    """
    problems = [f"{path.stem}: is not in the image set" for path in masks.iterdir() if path.stem not in photographs]
    problems += [
        f"{name}: {wrong}" for name, each in photographs.items() if (wrong := _wrong(masks / f"{name}.png", each))
    ]
    if problems:
        raise ValueError(f"the server would refuse {len(problems)} masks in {masks}:\n{first_of(problems)}")
    with replacing(path := top / "results.tgz") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in photographs:
            mask = masks / f"{name}.png"
            tar.add(mask, mask.relative_to(top))
    return path


def _wrong(path: Path, photograph: Path) -> str | None:
    """What is wrong with a mask; None if nothing is."""
    if not path.is_file():
        return "is missing"
    with Image.open(path) as mask, Image.open(photograph) as image:
        if mask.mode != "P":
            return f"is of mode {mask.mode}, wanted an indexed PNG"
        if mask.size != image.size:
            return f"is {mask.width}x{mask.height}, its photograph {image.width}x{image.height}"
        highest = int(np.asarray(mask).max())
    return f"holds the label {highest}, wanted 0..{voc.NUM_CLASSES - 1}" if highest >= voc.NUM_CLASSES else None
