"""Train, compare, explain and use networks for semantic segmentation, on PASCAL VOC-2012 or your own images.

In Python, `fcnseg.train("model=wilson", "aug=flip")` does what the command does, and `fcnseg.load("runs/<name>")` gives a
`fcnseg.inference.Segmenter`.

The modules and packages from the ground up. Each imports only those before it, late imports included:

texts, errors, names: the words of messages, errors and checks of values, names of scores and files.
machine: what a machine gives to a run.
data, models, learning: images, networks, and how any network learns from images: losses, scores, the task.
results: the findings of a test, with all that is written and printed of them.
settings, build: what is known of settings, and refused; from a config to these objects.
runs, inference: a run's folder, and its network in use.
cli, report: what the commands share, and a large command, of which a run's model card is a part.
callbacks, fit: what happens around the steps of a run, and the whole of it.
benchmark: another large command.
train, evaluate, predict, export, check, __main__: the other commands, and the console script.

PyTorch takes seconds to import. So commands, and what they use before they have checked their settings, import it late, within
functions: what is refused, or only helped or shown, does not wait for it.
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
