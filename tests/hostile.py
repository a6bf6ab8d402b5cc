"""Run folders that are damaged, or made to end, hang or fill what reads them: `KINDS` maps a name to what is done to one."""

import json
import os
import socket
from functools import partial

import yaml

from fcnseg.names import CONFIG, METRICS, RESULT, STATUS

IMAGES = "images.npz"
WRONG = {"null": None, "text": "x", "number": 1.5, "list": [1, 2], "table": {"a": 1}, "negative": -5, "huge": 10**400}
DEEP = "[" * 100_000


def put(node, path, value):
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = put(node[path[0]], path[1:], value)
    return copy


def result_with(path, value, folder):
    result = json.loads((folder / RESULT).read_text())
    (folder / RESULT).write_text(json.dumps(put(result, path, value)))


def config_with(key, value, folder):
    config = yaml.safe_load((folder / CONFIG).read_text())
    group, _, name = key.rpartition(".")
    (config[group] if group else config)[name] = value
    (folder / CONFIG).write_text(yaml.safe_dump(config))


def write(name, content, folder):
    (folder / name).unlink()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


def pipe(name, folder):
    (folder / name).unlink()
    os.mkfifo(folder / name)


def unix_socket(name, folder):
    (folder / name).unlink()
    here = os.getcwd()
    os.chdir((folder / name).parent)  # a socket's name may not be long
    with socket.socket(socket.AF_UNIX) as made:
        made.bind((folder / name).name)
    os.chdir(here)


def folder_for(name, folder):
    (folder / name).unlink()
    (folder / name).mkdir()


def device(name, folder):
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")


def swollen(name, folder):
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 40)  # a terabyte of nothing


def unfinished(status, folder):
    (folder / RESULT).unlink()  # with it, a run has finished, whatever its status says
    write(STATUS, status, folder)


NASTY = {  # texts that are no plain words
    "markup": "[bold]<script>alert(1)</script>--><b>|`*_$\\frac{",
    "mathtext": "a$b$\\frac",
    "surrogate": "\ud800",
    "escape": "\x1b]0;title\x07",
    "newlines": "a\n\n# b\n",
    "formula": '=HYPERLINK("http://x","y")',
    "long": "x" * 100_000,
    "path": "../../../x",
    "empty": "",
    "right to left": "\u202eabc",
}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = (CONFIG, STATUS, METRICS, RESULT, IMAGES)
KINDS = {
    **{f"{name} is {what}": partial(make, name) for name in FILES for what, make in (
        ("a pipe", pipe), ("a socket", unix_socket), ("a folder", folder_for), ("endless", device), ("swollen", swollen),
    )},
    **{f"{name} holds {what}": partial(write, name, content) for name in FILES for what, content in {
        "nothing": "", "zeros": b"\0" * 100, "deep brackets": DEEP, "deep tables": '{"a":' * 100_000, "latin": b"\xe9\xff",
        "utf-16": "{}".encode("utf-16"), "a list": "[1, 2]", "a word": "word", "a number": "1", "a long number": "9" * 9000,
        "infinity": '{"status": Infinity}', "bom": "\ufeff{}", "yaml code": "!!python/object/apply:os.system [ls]",
        "many lines": "\n" * 1_000_000,
    }.items()},
    "an alias bomb": partial(write, CONFIG, BOMB),
    "an alias of itself": partial(write, CONFIG, "choices: &a {b: *a}\n"),
    "an interpolation": partial(config_with, "seed", "${oc.env:HOME}"),
    "an interpolation of itself": partial(config_with, "seed", "${seed}"),
    "a missing value": partial(config_with, "seed", "???"),
    **{f"{key} is {what}": partial(config_with, key, value)
       for key in ("seed", "patience", "choices", "choices.model", "choices.experiment", "model", "data.size", "trainer",
                   "trainer.max_epochs", "callbacks", "logger", "data", "data.source", "name", "choices.data")
       for what, value in WRONG.items()},
    **{f"{key} has {what}": partial(config_with, key, value)
       for key in ("choices.model", "choices.aug", "choices.experiment", "name", "model.backbone", "data.root", "data.split",
                   "choices.data", "choices.=1+1", "optimizer.lr")
       for what, value in NASTY.items() if what != "surrogate"},
    "a surrogate in the config": lambda folder: write(
        CONFIG, (folder / CONFIG).read_text().replace("name: good", 'name: "\\uD800 \\e"'), folder),
    **{f"{name} has {what}": partial(unfinished, json.dumps({"status": "failed", name: value}))
       for name in ("status", "error", "data_fingerprint") for what, value in {**NASTY, **WRONG}.items()},
    **{f"{key} in the result has {what}": partial(result_with, (key,), value)
       for key in ("split", "data_fingerprint", "hardware", "precision", "commit", "versions")
       for what, value in NASTY.items()},
    "another shape of confusion": partial(result_with, ("confusion",), [[1, 2], [3, 4]]),
    "no pixels": partial(result_with, ("confusion",), [[0] * 21] * 22),
    "no score": partial(result_with, ("metrics",), {
        f"test/{name}": None for name in ("loss", "miou", "pixel_acc", "mean_acc", "paper_iou", "paper_acc")}),
    "no floor": partial(result_with, ("floor", "paper_iou"), None),
    "no class": lambda folder: result_with(
        ("iou",), dict.fromkeys(json.loads((folder / RESULT).read_text())["iou"]), folder),
    "a late best epoch": partial(result_with, ("best_epoch",), 99),
    "tall losses": partial(write, METRICS, "epoch,train/loss,val/loss,val/miou\n0,1e308,-1e308,1\n1,inf,nan,nan\n"),
    "long rows": partial(write, METRICS, "epoch,train/loss\n0,1,2,3\n"),
    "short rows": partial(write, METRICS, "epoch,train/loss,val/loss\n0\n1,2\n"),
    "many epochs": partial(write, METRICS, "epoch,train/loss\n" + "".join(f"{i},{i}\n" for i in range(200_000))),
    "a null byte in a row": partial(write, METRICS, "epoch,train/loss\n0,\0\n"),
    "quotes": partial(write, METRICS, 'epoch,train/loss\n0,"' + "x" * 200_000 + '"\n'),
}  # fmt: skip
