"""The files of data sets that tests draw."""

from fcnseg.data.dataset import DataSet


class Drawn(DataSet):
    """Eight images in train and four in val, which lie beside their masks in `path`."""

    def image_sets(self):
        return "train", "val"

    def names(self, image_set):
        return tuple(map(str, {"train": range(8), "val": range(8, 12)}[image_set]))

    def image(self, name):
        return self.path / f"{name}.png"

    def mask(self, name):
        return self.path / f"{name}-mask.png"
