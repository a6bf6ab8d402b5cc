"""The content of result.json, key by key: `scoring`, `provenance` and `fit` write it; summary, report and model card read it.

NaN is None, since JSON has no NaN. Results of earlier versions lack some keys.
"""

from typing import Any, TypedDict


class Measured(TypedDict):
    """The findings of a test.

    Attributes:
        metrics: The scores of `fcnseg.names.SCORES` and the loss, as `test/<name>`.
        iou: The IoU of every class, by its name.
        calibration: The calibration `error`, and its sums for every bin of confidence: `pixels`, `confidence` and `right`.
        confusion: (C + 1, C) pixels: the label in the truth, void last, by the predicted label.
        floor: The scores of a prediction that is one class everywhere.
        floor_class: The name of that class.
        classes: The classes, as `fcnseg.data.dataset.Classes.plain` gives them.
        split: The split of the data set; or the one image set that was tested on.
        images: The number of images in train, val and test.
        size: The height and the width of the scored images in pixels, as one number if they are equal; or "original".
        data_fingerprint: The hash of the data set's files.
        parameters: The number of the network's parameters.
    """

    metrics: dict[str, float | None]
    iou: dict[str, float | None]
    calibration: dict[str, Any] | None
    confusion: list[list[int]]
    floor: dict[str, float | None]
    floor_class: str
    classes: dict[str, Any]
    split: str
    images: dict[str, int]
    size: int | str
    data_fingerprint: str
    parameters: int


class Code(TypedDict):
    """The code behind a result.

    Attributes:
        commit: The commit of this package's checkout; None if it is installed without one.
        dirty: Whether files differed from that commit.
    """

    commit: str | None
    dirty: bool | None


class Origin(TypedDict):
    """The versions, the machine and the weights behind a result.

    Attributes:
        precision: Lightning's name of the precision.
        versions: The versions of the packages that a number depends on.
        hardware: The GPU, or the CPU and its threads.
        checkpoint: The `file` of the best weights and its `sha256`.
    """

    precision: str
    versions: dict[str, str | None]
    hardware: str
    checkpoint: dict[str, str]


class Result(Measured, Code, Origin):
    """The result of a run.

    Attributes:
        best_epoch: The epoch whose weights were tested, counted from 0.
        epochs: The number of epochs trained.
        seconds: The time of training, without the epochs' interrupted parts.
        images_per_s: The images trained on in a second.
        predicted_per_s: The images that went through the network in a second of the test.
        peak_memory: The most bytes in training: of the GPU, else of the process.
        giga_macs: Billions of multiplications with additions for one image.
        sessions: The sessions in which the run was trained: `epochs`, first and last from 1, and the surroundings of each.
        bf16_gain: The measured speed of bfloat16 over that of float32, if trainer.precision=auto asked for it.
    """

    best_epoch: int
    epochs: int
    seconds: float
    images_per_s: float | None
    predicted_per_s: float | None
    peak_memory: int
    giga_macs: float | None
    sessions: list[dict[str, Any]]
    bf16_gain: float | None
