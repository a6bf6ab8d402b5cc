import json
from functools import partial

import numpy as np
import pytest
import torch
from drawn import Drawn
from PIL import Image

from fcnseg.data.augment import Chain
from fcnseg.data.dataset import VOID, Classes
from fcnseg.data.module import DataModule
from fcnseg.learning.losses import class_weights

PIXELS = [4, 3, 1, 2]  # of three classes and void


def classes(background):
    return Classes(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), background)


# Eq. (2) by hand: with class 1 as background, void makes its 3 pixels 5 of 10; without one, 8 pixels are labelled.
@pytest.mark.parametrize(
    ("background", "pixels", "weights"),
    [(0, [6, 3, 1], [0.4, 0.7, 0.9]), (1, [4, 5, 1], [0.6, 0.5, 0.9]), (None, [4, 3, 1], [4 / 8, 5 / 8, 7 / 8])],
)
def test_void_counts_as_background_if_there_is_one(background, pixels, weights):
    found = classes(background).void_as_background(PIXELS)
    assert found == pixels
    assert class_weights(torch.tensor(found)).tolist() == pytest.approx(weights)
    assert PIXELS == [4, 3, 1, 2]


class Numbered(Drawn):
    """Eight images and four; the mask of image i is one label, after a corner that is of the next."""

    def __init__(self, path, number=3, background=None, labels=None):
        self.path, self.labels = path, labels or list(range(number))
        colours = tuple((i, 255 - i, 2 * i % 256) for i in range(number))
        self.classes = Classes(tuple(f"class {i}" for i in range(number)), colours, background)
        for name in (*self.names("train"), *self.names("val")):
            if not self.image(name).exists():
                Image.new("RGB", (48, 36), (int(name), 99, 9)).save(self.image(name))
                Image.new("L", (48, 36)).save(self.mask(name))

    @property
    def rules(self):
        return f"{super().rules} {self.labels}"

    def read_mask(self, name, image):
        labels = np.full((36, 48), self.labels[int(name) % len(self.labels)], dtype=np.uint8)
        labels[:9, :12] = self.labels[(int(name) + 1) % len(self.labels)]
        return Image.fromarray(labels)


@pytest.fixture
def make(tmp_path):
    def make(size=32, **options):
        source = partial(Numbered, **options)
        data = DataModule(str(tmp_path), source=source, split="official", size=size, batch_size=4, augment=Chain(), seed=0)
        data.prepare_data()
        return data

    return make


def test_a_data_set_of_ones_own_needs_no_more_than_its_methods(make):
    data = make(number=3)
    assert data.classes.names == ("class 0", "class 1", "class 2")
    assert data.packs["train"].label_pixels.tolist() == [3 * 1620 + 2 * 108, 3 * 1620 + 3 * 108, 2 * 1620 + 3 * 108, 0]
    assert {int(mask[31, 31]) for mask in data.packs["val"].masks} == {0, 1, 2}


def test_the_floor_is_background_or_the_most_frequent_class_of_train(make):
    assert make(number=3, background=2).floor_class == 2
    assert make(number=3).floor_class == 1
    assert make(number=3, labels=[2, 0, VOID, VOID]).floor_class == 0  # only labelled pixels


def test_other_classes_are_another_pack(make):
    """The files are the same: what their labels mean is not."""
    one, same, other = make(number=3), make(number=3), make(number=4, labels=[3, 2, 1])
    assert same.fingerprint == one.fingerprint != other.fingerprint
    assert len(other.packs["train"].label_pixels) == 5
    assert int(other.packs["train"].masks[0, 31, 31]) == 3
    assert "have changed since" in other.changed_since(one.fingerprint)


@pytest.mark.parametrize("label", [3, 200])
def test_labels_of_no_class_are_refused(make, label):
    with pytest.raises(ValueError, match=r"-mask.png is read with labels that are of no class, wanted 0..2 and 255"):
        make(number=3, labels=[0, label])


def test_images_need_not_be_square(make):
    data = make(size=[40, 64])
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (4, 3, 40, 64)
    assert batch.mask.shape == (4, 40, 64)
    corner = batch.mask == (batch.mask[:, -1:, -1:].int() + 1) % 3
    assert corner[:, :10, :16].all()  # a quarter of both sides
    assert corner.sum() == 4 * 160
    homes = sorted(path.name.rsplit("-", 1)[0] for path in (data.root / "packs").iterdir() if path.is_dir())
    assert homes == ["train-40x64", "val-40x64"]
    assert json.dumps(data.size) == "[40, 64]"
