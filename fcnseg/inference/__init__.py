"""A trained network put to use: from a run to masks of photographs. Neither Hydra nor Lightning is imported."""

from fcnseg.inference.segmenter import Prediction, Segmenter, load

__all__ = ["Prediction", "Segmenter", "load"]
