"""Train, compare, explain and use networks for semantic segmentation, on PASCAL VOC-2012 or your own images.

In Python, `fcnseg.train("model=wilson", "aug=flip")` does what the command does, and `fcnseg.load("runs/<name>")` gives a
`fcnseg.inference.Segmenter`.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Import what is asked for, and not before: a command need not wait for what it does not use."""
    if name == "load":
        return import_module("fcnseg.inference").load
    if name == "train":
        return import_module("fcnseg.train")
    raise AttributeError(f"module 'fcnseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names that Python's help and a notebook's completion show."""
    return [*globals(), "load", "train"]
