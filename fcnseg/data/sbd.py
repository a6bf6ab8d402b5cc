"""SBD, the Semantic Boundaries Dataset: masks of VOC's photographs that VOC has not labelled, for a larger train set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fcnseg.data import decode, voc
from fcnseg.data.download import Published, find_or_download, voc2012
from fcnseg.data.formats.classes import ClassList
from fcnseg.data.formats.files import Files

FOLDER = "benchmark_RELEASE/dataset"  # below `data.root`, where the archive puts it
LARGEST = 2 << 20  # bytes of a mask's file, which may be compressed a thousandfold; one of 500 x 500 pixels has 0.25 MB


def nothing_found(root: Path) -> str:
    """The message that SBD is not in `root`."""
    remedy = f"put it there, or data.download=true downloads it into {root} (1.4 GB)"
    return f"no SBD in data.root={root}, beside VOC-2012: looked for {root / FOLDER / 'cls'} and {root / 'cls'}; {remedy}"


ARCHIVE = Published("SBD", [FOLDER], "cls", nothing_found)


class TrainAug(Files):
    """The train set that is known as train_aug, and VOC's val.

    Train has the images of VOC's train, then the images of SBD's train and val that VOC's train and val lack: 10582 images
    in all. An image of VOC's train has VOC's mask, even if SBD has drawn one.
    """

    licence = "SBD's masks of PASCAL VOC's photographs, which are flickr's, under the terms of use of flickr"

    @property
    def rules(self) -> str:
        """Those of any data set: the table of labels, which `Files` adds, is VOC's and the same everywhere."""
        return super(Files, self).rules

    def read_mask(self, name: str, image: Image.Image | None = None) -> Image.Image:
        """The labels of a mask, VOC's PNG or SBD's MATLAB file: see `decode.read_mask`; SBD's have no void."""
        path = self.mask(name)
        stored = _segmentation(path) if path.suffix == ".mat" else decode.stored_mask(path, pictures=False)
        return decode.as_labels(path, stored, image, legend=self.known.legend)


def _segmentation(path: Path) -> Image.Image:
    """Read `GTcls.Segmentation` from a MATLAB file, in the form of `decode.stored_mask`.

    Raises:
        ValueError: The file is missing or broken.
    """
    from scipy.io import loadmat  # an extra

    remedy = "unpack SBD's archive anew, or take the name out of its lists"
    with decode.errors_named(f"mask {path}", remedy, remedy):
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f"it has {size:,} bytes, wanted up to {LARGEST:,}")
        labels = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"].item()
        if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype != np.uint8 or not labels.size:
            raise ValueError("GTcls.Segmentation is no matrix of bytes")
    mask = Image.fromarray(labels)
    mask.info = {"format": "MAT", "orientation": 1, "bits": 8}
    return mask


def sbd(
    root: Path, *, urls: Sequence[str], md5: str, sbd_urls: Sequence[str], sbd_md5: str, download: bool | None = None
) -> TrainAug:
    """Find VOC-2012 and SBD under `root`, or download them there (2 GB and 1.4 GB): see `download.find_or_download`.

    Args:
        root: The folder for both.
        urls: The mirrors of VOC-2012's archive.
        md5: The md5 of VOC-2012's archive.
        sbd_urls: The mirrors of SBD's archive.
        sbd_md5: The md5 of SBD's archive.
        download: Whether they may be downloaded.

    Raises:
        ValueError: See `find_or_download`; or scipy is not installed.
        OSError: See `find_or_download`.
    """
    try:
        import scipy.io  # noqa: F401 (before gigabytes are downloaded)
    except ImportError as error:
        raise ValueError(f'data=sbd needs a package that is not installed ({error}): pip install ".[sbd]"') from error
    of_voc = voc2012(root, urls=urls, md5=md5, download=download)
    path = find_or_download(ARCHIVE, root, urls=sbd_urls, md5=sbd_md5, download=download)
    data_set = TrainAug(path, "SBD", class_list=ClassList(path, voc.VOC, voc.LEGEND))
    for image_set in ("train", "val"):
        for name in of_voc.names(image_set):
            data_set.add(image_set, name, of_voc.image(name), of_voc.mask(name))
    images = path / "img"
    for name in (*voc.listed(path / "train.txt", images), *voc.listed(path / "val.txt", images)):
        if name not in data_set.pairs:  # neither VOC's nor listed before
            data_set.add("train", name, images / f"{name}.jpg", path / "cls" / f"{name}.mat")
    return data_set
