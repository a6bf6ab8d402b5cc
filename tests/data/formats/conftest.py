"""The same 24 generated images in every format."""

import numpy as np
import pytest
from PIL import Image

from fcnseg.data.shapes import shapes


class Sample:
    """24 images with VOC's labels: 20 in train, 4 in val."""

    def __init__(self, folder):
        self.folder = folder
        self.sets = {"train": folder.names("train"), "val": folder.names("val")}
        self.names = (*self.sets["train"], *self.sets["val"])
        self.labels = {name: np.asarray(folder.read_mask(name)) for name in self.names}

    def photograph(self, name, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.folder.image(name))

    def mask(self, name, path, values=None, colours=None):
        """Save a mask: by a table of 256 numbers, or of 256 colours, or VOC's palette."""
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = self.labels[name]
        if values is not None:
            picture = Image.fromarray(np.asarray(values)[labels])
        elif colours is not None:
            picture = Image.fromarray(np.asarray(colours, dtype=np.uint8)[labels])
        else:
            picture = Image.open(self.folder.mask(name))
        picture.save(path)


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    return Sample(shapes(tmp_path_factory.mktemp("sample"), train=20, val=4, seed=0))
