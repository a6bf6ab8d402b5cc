"""A trained network put to use: from a run to masks of photographs. Neither Hydra nor Lightning is imported."""

from fcnseg.inference.prediction import Prediction
from fcnseg.inference.segmenter import Segmenter, load

__all__ = ["Prediction", "Segmenter", "load"]
