"""Every format, made of the same images, gives the masks of VOC's layout."""

from pathlib import PurePosixPath

import numpy as np
import pytest
import torch

from fcnseg.data import decode, formats, voc
from fcnseg.data.packed import pack

from .writers import FORMATS, SETTINGS


@pytest.fixture(params=FORMATS, ids=lambda write: write.__name__)
def written(request, sample, tmp_path):
    request.param(sample, tmp_path)
    return formats.folder(tmp_path, **SETTINGS.get(request.param, {})), request.param


def test_masks_are_those_of_voc_s_layout(written, sample):
    data, write = written
    assert data.format == FORMATS[write]
    found = {PurePosixPath(name).name: name for image_set in ("train", "val") for name in data.ids(image_set)}
    assert sorted(found) == sorted(sample.names)
    for own, name in found.items():
        image = decode.read_image(data.image(name))
        mask = data.read_mask(name, image)
        assert mask.mode == "L"
        assert np.asarray(mask).tobytes() == sample.labels[own].tobytes()
        assert np.array_equal(image, decode.read_image(sample.folder.image(own)))


def test_classes_are_those_of_the_format(written):
    data, _ = written
    names = tuple(name if name != "_background_" else "background" for name in data.classes.names)
    assert names == voc.CLASSES
    assert data.classes.background == 0


def test_packs_are_those_of_voc_s_layout(written, sample, tmp_path):
    data, _ = written
    for image_set in ("train", "val"):
        found = pack(data, image_set, 32, cache=tmp_path / "packs")
        own = {PurePosixPath(name).name: row for row, name in enumerate(found.ids)}
        wanted = pack(sample.folder, "train", 32, ids=list(own), cache=tmp_path / "voc")
        assert torch.equal(found.masks, wanted.masks)
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.class_pixels, wanted.class_pixels)
