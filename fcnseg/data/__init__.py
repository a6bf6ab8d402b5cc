"""From a folder in VOC's layout to batches on the device."""

SPLITS = ("official", "halves")
MIN_SIZE = 32  # pixels: the deepest network halves the image five times
