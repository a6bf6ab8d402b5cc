"""The archive that PASCAL VOC's evaluation server takes: the masks of all images of an image set."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from fcnseg.data import voc
from fcnseg.data.dataset import Classes
from fcnseg.inference.photographs import image_set
from fcnseg.machine.files import replacing
from fcnseg.results import paper
from fcnseg.settings.table import flatten
from fcnseg.texts import first_of


def place(config: Mapping[str, Any], classes: Classes, images: str) -> Path:
    """The folder of the masks in the archive.

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
        raise ValueError(f"format=voc images={images}: wanted the list of an image set, <VOC2012>/{voc.LISTS}/test.txt")
    # A file of weights counts, too: it does not tell which images its network has seen.
    pretrained = any(key.split(".")[-1] == "weights" and value for key, value in flatten(config["model"]).items())
    competition = 6 if pretrained or config["choices"]["data"] != paper.DATA else 5
    return Path("results", "VOC2012", "Segmentation", f"comp{competition}_{found[1]}_cls")


def archive(top: Path, masks: Path, photographs: Mapping[str, Path]) -> Path:
    """Pack the masks into `results.tgz`.

    Args:
        top: The folder that the archive's paths begin in, and that it is written into.
        masks: The folder of the masks, which is `place` below it.
        photographs: The photograph of each image of the image set.

    Raises:
        ValueError: A mask has another size than its photograph's file; the message names all of them.
    """
    files = {name: masks / f"{name}.png" for name in photographs}
    sizes = {name: (_size(files[name]), _size(photograph)) for name, photograph in photographs.items()}
    # They differ by the EXIF orientation of the photograph, which the server does not heed.
    if turned := [f"{name}: is {mask}, its photograph {image}" for name, (mask, image) in sizes.items() if mask != image]:
        raise ValueError(
            f"the server would refuse {len(turned)} masks in {masks}, give oriented=false overwrite=true:\n{first_of(turned)}"
        )
    with replacing(path := top / "results.tgz") as draft, tarfile.open(fileobj=draft, mode="w:gz") as tar:
        for file in files.values():
            tar.add(file, file.relative_to(top))
    return path


def _size(path: Path) -> str:
    with Image.open(path) as image:
        return f"{image.width}x{image.height}"
