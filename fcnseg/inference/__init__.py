"""A trained network put to use: from a run to masks of photographs. Neither Hydra nor Lightning is imported.

segmenter: a function from photographs to masks, one by one or as a stream.
tiles: the parts in which a large photograph goes through the network.
prediction: what the network found in a photograph.
photographs: the files that `images=` means.
masks: the files that `predict` writes.
submission: the archive for the server of PASCAL VOC.
"""

from fcnseg.inference.prediction import Prediction
from fcnseg.inference.segmenter import Segmenter, load

__all__ = ["Prediction", "Segmenter", "load"]
