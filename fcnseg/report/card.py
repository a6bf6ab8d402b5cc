"""The model card of a run, its README.md: the network, its training data, its scores and its use."""

import re
import shlex
from collections.abc import Sequence
from functools import partial

from fcnseg import inference
from fcnseg.cli.arguments import quoted
from fcnseg.data.module import DataModule
from fcnseg.data.pictures import panel
from fcnseg.names import CARD, SCORES
from fcnseg.report.blocks import Block, Chart, Listing, Section, Table, Text
from fcnseg.report.galleries import pick, pixels, predict
from fcnseg.report.render import write_markdown
from fcnseg.results.result import Result
from fcnseg.results.summary import as_text, beats_floor
from fcnseg.runs.folder import Run
from fcnseg.texts import counted, warn

LIMITS = (
    "The network knows only these classes: anything else in a photograph gets the label of one of them. Its scores are"
    " those of images like the ones it was tested on. Photographs are squashed to {size} pixels before the network sees them,"
    " so what is thin or small there is lost; the scores above were taken at that size, and are not those of VOC's server."
)


def describe(run: Run, data: DataModule, result: Result, *, settings: Sequence[str]) -> None:
    """Write the card into the folder of a run that this process has trained.

    Args:
        run: The run, which has its best checkpoint.
        data: The data that the run was tested on.
        result: The content of its result.json, which may not be written yet.
        settings: The settings of the command.
    """
    choices, count = run.config.choices, len(data.classes)
    lead = f"A network (model={choices.model}) that labels every pixel of a photograph as one of {count} classes."
    sections = [
        Section("Scores", _scores(result)),
        Section("Examples", [_examples(run, data)]),
        Section("IoU of every class", [_of_classes(result)]),
        Section("Use", _use(run)),
        Section("Data", _about_data(choices.data, data, result)),
        Section("Training", _training(result, settings)),
        Section("Limits", [Text(LIMITS.format(size=result["size"]))]),
    ]
    try:
        write_markdown(run.path, run.path.name, lead, sections, name=CARD, figures="card")
    except OSError as error:  # a run is complete even if its card cannot be written
        warn(f"{run.path / CARD} could not be written: {error.strerror}")


def _about_data(choice: str, data: DataModule, result: Result) -> list[Block]:
    numbers = ", ".join(f"{n} to {stage}" for stage, n in result["images"].items())
    known = (
        "The test images are the val images, on which the epoch was chosen: on new images the scores may be lower."
        " With set=test, the command evaluate scores the image set test, if the data have one."
    )
    return [
        Text(f"data={choice}: {numbers}. {data.classes}. Fingerprint of its files: {result['data_fingerprint']}."),
        Text(f"Licence: {data.data_set.licence}."),
        *([Text(known)] if result["split"] == "official" else []),
    ]


def _training(result: Result, settings: Sequence[str]) -> list[Block]:
    epoch = f"epoch {result['best_epoch'] + 1} of {result['epochs']}, which was best on the validation images"
    return [
        Listing(shlex.join(["python", "-m", "fcnseg.train", *settings]), "bash"),
        Text(
            f"The weights are those of {epoch}. {result['parameters']:,} parameters; {result['seconds']:.0f} s of training on"
            f" {result['hardware']} in {result['precision']}, by commit {result['commit']} of fcnseg."
        ),
    ]


def _use(run: Run) -> list[Block]:
    is_plain = re.fullmatch(r"[\w./-]+", str(run.path))
    setting = shlex.quote(f"run={run.path if is_plain else quoted(str(run.path))}")  # for Hydra, then for the shell
    commands = f"""python -m fcnseg.predict {setting} images=photos out=masks
python -m fcnseg.evaluate {setting} at=original"""
    python = f"""import fcnseg

prediction = fcnseg.load({str(run.path)!r})("photo.jpg")
prediction.labels, prediction.scores  # of every pixel: the label of its class, and how sure it is
prediction.save("mask.png")"""
    return [Listing(commands, "bash"), Listing(python, "python")]


def _scores(result: Result) -> list[Block]:
    floor, metrics = result["floor"], result["metrics"]
    rows = [[words, as_text(metrics[f"test/{name}"]), as_text(floor[name])] for name, words in SCORES.items()]
    about = f"Of {counted(result['images']['test'], 'test image')} ({result['split']} split) at {result['size']} px."
    blocks: list[Block] = [Text(about), Table(("score", "this network", "the floor"), rows)]
    floor_class = result["floor_class"]
    if not beats_floor(result):
        blocks.append(Text(f"It is not better than predicting {floor_class} everywhere.", warning=True))
    return [*blocks, Text(f"The floor is the score of predicting {floor_class} everywhere.")]


def _of_classes(result: Result) -> Table:
    labelled = result["confusion"][:-1]
    total = sum(map(sum, labelled)) or 1
    rows = [
        [name, as_text(iou), f"{sum(truth) / total:.2%}"]
        for (name, iou), truth in zip(result["iou"].items(), labelled, strict=True)
    ]
    return Table(("class", "IoU", "share of the test pixels"), rows)


def _examples(run: Run, data: DataModule) -> Chart:
    """Three test images, chosen so that they show many classes."""
    names = pick(data, data.names("test"))
    segmenter = inference.load(run.path, trust=True)  # the run that this process has trained
    labels = predict(segmenter, data, names)
    images, truths = zip(*(pixels(data, name) for name in names), strict=True)  # (3, H, W) and (H, W) each
    caption = f"{', '.join(names)}: the image, its truth, the prediction, and the prediction over the image."
    return Chart("examples", caption, partial(panel, images, truths, labels.values(), data.classes, names))
