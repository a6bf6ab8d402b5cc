"""Exported files: each gives what its network gives, at any size, and says what it is; one that does not is not kept."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models.test_contract import NETS, trained
from omegaconf import OmegaConf
from PIL import Image
from torchvision.models import get_model

from fcnseg.cli.configs import CONF
from fcnseg.export import __main__ as module
from fcnseg.export import formats, parity
from fcnseg.export.__main__ import export
from fcnseg.export.formats import Graph
from fcnseg.models import Torchvision, Transfer
from fcnseg.models.weights import of_network
from fcnseg.names import CONFIG
from fcnseg.runs import reopen, stored_network
from fcnseg.runs.folder import Run

BACKBONES = ("shufflenet_v2_x0_5", "mobilenet_v2", "convnext_tiny", "efficientnet_b0", "densenet121", "regnet_y_400mf")
ALL = NETS | {name: lambda name=name: Transfer(5, backbone=name, weights=None) for name in BACKBONES}
SIZES = ((32, 32), (97, 131), (64, 96))
needs_onnx = pytest.mark.skipif(bool(module.missing()), reason="an extra")
QUICK = {("fcn", "onnx"), ("wilson", "torch"), ("wilson", "weights")}  # `onnx_file` is an ONNX file of Wilson's model
CASES = [
    pytest.param(
        name,
        form,
        marks=[mark for mark in (needs_onnx,) if form == "onnx"] + [pytest.mark.slow for _ in {(name, form)} - QUICK],
        id=f"{name}-{form}",
    )
    for name in ALL
    for form in ("onnx", "torch", "weights")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_in):
    return train_in(
        tmp_path_factory.mktemp("run"),
        "data=voc2012",
        "model=wilson",
        "data.size=[32,48]",
        "name=mine",
        "optimizer.lr=0.05",
    )


# Autograd counts the devices in its first backward pass. After an export it would find more and start a thread for each, with
# which the fault tests could not fork.
torch.ones((), requires_grad=True).backward()


@pytest.fixture(autouse=True)
def no_speeds(monkeypatch):
    monkeypatch.setattr(parity, "ENOUGH", 0)


@pytest.fixture(scope="module")
def backbone_run(tmp_path_factory, train_in):
    return train_in(tmp_path_factory.mktemp("run"), "model=transfer")


@pytest.fixture(scope="module")
def onnx_file(run, command_in, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    outcome = command_in(folder, export, f"run={run}", "out=mine.onnx")
    assert outcome.code == 0, outcome.err
    return folder / "mine.onnx", outcome.out


def noise(*size):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_file_gives_the_logits_of_its_network_at_any_size(name, form, tmp_path):
    torch.manual_seed(0)
    graph, blank = Graph(trained(ALL[name]()), raw=True), Graph(ALL[name](), raw=True)
    about = {"outputs": {"logits": ""}}
    with (tmp_path / "file").open("wb") as file:
        formats.FORMATS[form].write(graph, about, file)
    opened = formats.FORMATS[form].open(tmp_path / "file", blank)
    rows = [parity.compared_at(graph, opened, [noise(70, 60)] * (3 - i), size) for i, size in enumerate(SIZES)]
    parity.check(rows, graph)
    assert all(row.ties < 0.2 for row in rows)  # so that labels are compared, too
    with torch.inference_mode():
        assert opened(torch.zeros(1, 3, 33, 32, dtype=torch.uint8))[0].shape == (1, 5, 33, 32)


@needs_onnx
def test_the_metadata_are_read_by_onnxruntime_alone(run, onnx_file):
    from onnxruntime import InferenceSession

    path, _ = onnx_file
    session = InferenceSession(path)
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    result = json.loads((run / "result.json").read_text())
    assert {key: about[key] for key in result["classes"]} == result["classes"]
    assert (about["run"], about["commit"], about["size"]) == ("mine", result["commit"], [32, 48])
    beside = json.loads(path.with_name("mine.onnx.json").read_text())
    rows = beside.pop("parity")
    assert beside == about
    assert [(row["height"], row["width"]) for row in rows] == [(32, 48), (97, 131), (64, 96)]
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", 3, "H", "W"])
    assert [(output.name, output.type) for output in session.get_outputs()] == [
        ("labels", "tensor(uint8)"),
        ("scores", "tensor(float)"),
    ]
    onnx = pytest.importorskip("onnx")
    opsets = {each.domain: each.version for each in onnx.load(path).opset_import}
    assert opsets[""] == about["opset"] == formats.OPSET
    assert f"opset {formats.OPSET};" in (CONF / "export.yaml").read_text()


@needs_onnx
def test_by_onnxruntime_and_numpy_alone_the_file_has_the_mean_iou_of_the_result(run, onnx_file):
    from onnxruntime import InferenceSession

    data = reopen.data(Run(run).config)
    pack = data.packs["val"]
    images, masks = pack.images.numpy(), pack.masks.numpy()
    labels, scores = InferenceSession(onnx_file[0]).run(None, {"image": images.transpose(0, 3, 1, 2)})
    result = json.loads((run / "result.json").read_text())
    matrix = np.zeros((22, 21), dtype=int)
    np.add.at(matrix, (np.where(masks == 255, 21, masks), labels), 1)
    assert matrix.tolist() == result["confusion"]
    right, truth = matrix[:-1].diagonal(), matrix[:-1].sum(1)
    union = truth + matrix[:-1].sum(0) - right
    assert (right[union > 0] / union[union > 0]).mean() == pytest.approx(result["metrics"]["test/miou"], abs=1e-6)
    assert labels.shape == scores.shape == masks.shape
    assert (scores >= 1 / 21).all()
    assert (scores <= 1).all()


@needs_onnx
def test_the_table_shows_three_sizes_on_real_images(onnx_file, root):
    _, printed = onnx_file
    lines = printed.splitlines()
    assert f"on test images of {root}".replace(" ", "") in "".join(printed.split())  # a long path is wrapped
    assert {"allowed", "ties", "beyond"} <= {*printed.split()}
    assert [line.split("│")[1].strip() for line in lines if line.startswith("│")] == ["32 x 48", "97 x 131", "64 x 96"]


@pytest.mark.parametrize("form", ["torch", "weights"])
def test_metadata_of_the_other_formats(run, form, command, tmp_path):
    assert command(export, f"run={run}", f"format={form}", "out=to/here").code == 0
    if form == "torch":
        extra = {"metadata.json": ""}
        torch.export.load((tmp_path / "to" / "here").open("rb"), extra_files=extra)
        about = json.loads(extra["metadata.json"])
    else:
        about = torch.load(tmp_path / "to" / "here", weights_only=True)["metadata"]
    beside = json.loads((tmp_path / "to" / "here.json").read_text())
    assert {**about, "parity": beside["parity"]} == beside
    assert about["names"][:2] == ["background", "aeroplane"]
    assert ("inputs" in about, "outputs" in about) == (form == "torch", form == "torch")


@pytest.mark.parametrize("raw", [True, False])
def test_a_file_that_differs_is_not_kept(run, raw, command, tmp_path, monkeypatch):
    def write(graph, about, file):
        net = stored_network.load(run).net
        net.classifier.bias.data[3] += 1
        formats.write_weights(Graph(net, raw=raw), about, file)

    monkeypatch.setitem(formats.FORMATS, "torch", formats.Format(write, formats.open_weights))
    outcome = command(export, f"run={run}", "format=torch", f"raw={str(raw).lower()}")
    assert outcome.code == 1
    assert "mine.pt2 was not kept: at 32 x 48 pixels, a share of " in outcome.err
    assert "wanted a share of at most 0.01" in outcome.err
    assert "97 x 131" in outcome.out
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_cannot_be_opened_is_not_kept(run, command, tmp_path, monkeypatch):
    broken = formats.Format(lambda graph, about, file: file.write(b"PK"), formats.open_torch)
    monkeypatch.setitem(formats.FORMATS, "torch", broken)
    outcome = command(export, f"run={run}", "format=torch")
    assert outcome.code == 1
    assert "mine.pt2 was not kept: it cannot be opened again (" in outcome.err
    assert [*tmp_path.iterdir()] == []


def changed(graph, pixels, *, nan=False):
    """The graph's labels and scores, those of so many pixels changed."""

    def run(image):
        labels, scores = (each.clone() for each in graph(image))
        labels.flatten()[:pixels] += 1
        scores.flatten()[:pixels] += float("nan") if nan else 0.0
        return labels, scores

    return run


@pytest.mark.parametrize(("name", "allowed"), [("fcn", 0), ("wilson", 40)])  # of 64 x 64 pixels
def test_one_pixel_that_differs_is_refused_but_for_a_few_of_wilsons(name, allowed, monkeypatch):
    monkeypatch.setattr(parity, "TOLERANCE", 1e-6)  # no ties
    torch.manual_seed(0)
    graph = Graph(trained(NETS[name]()), raw=False)
    for pixels in (0, allowed, allowed + 1):
        row = parity.compared_at(graph, changed(graph, pixels), [noise(64, 64)], (64, 64))
        assert row.beyond == pytest.approx(pixels / 64**2)
        if pixels <= allowed:
            parity.check([row], graph)
        else:
            with pytest.raises(parity.DifferentError, match="at 64 x 64 pixels, a share of "):
                parity.check([row], graph)
    nan = parity.compared_at(graph, changed(graph, 64, nan=True), [noise(64, 64)], (64, 64))
    assert nan.beyond == pytest.approx(1 / 64)


def test_another_normalisation_is_refused():
    torch.manual_seed(0)
    net = trained(NETS["fcn"]())
    graph, other = Graph(net, raw=False), Graph(net, raw=False)
    other.std *= 256 / 255
    with pytest.raises(parity.DifferentError):
        parity.check([parity.compared_at(graph, other, [noise(64, 64)], (64, 64))], graph)


def test_ties_are_no_wrong_labels():
    class Two(torch.nn.Module):
        def forward(self, image):
            return torch.stack([image[:, 0], image[:, 0] + 1e-6 * (image[:, 0] > 0)], 1)

    graph = Graph(Two(), raw=False)
    row = parity.compared_at(graph, lambda x: (1 - graph(x)[0], graph(x)[1]), [noise(32, 32)], (32, 32))
    assert (row.same, row.ties, row.beyond) == (0, 1, 0)


def test_a_package_that_is_missing_is_named_before_anything_is_loaded(command, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else object())
    outcome = command(export, "run=nothing")
    assert outcome.code == 2
    assert outcome.err.strip() == ('fcnseg: format=onnx needs onnxscript, which is not installed: pip install ".[export]"')


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["format=tflite"], ["format=tflite", "onnx, torch, weights"]),
        (["format=weights", "raw=true"], ["raw=true", "leave it out"]),
        (["format=weights", "run=123"], ["no run in 123"]),
        (["format=weights", "data.root=nothing"], ["nothing"]),
    ],
)
def test_what_does_not_fit_is_refused(run, args, words, command, tmp_path):
    outcome = command(export, f"run={run}", *args)
    assert outcome.code == 2
    assert [word for word in words if word not in outcome.err] == []
    assert [*tmp_path.glob("*")] == []


def test_an_existing_file_is_replaced_only_if_wanted(run, command, tmp_path):
    for taken in ("mine.pth", "mine.pth.json"):
        (tmp_path / taken).write_text("mine")
        outcome = command(export, f"run={run}", "format=weights")
        assert outcome.code == 2
        assert f"{taken} is there already" in outcome.err
        assert (tmp_path / taken).read_text() == "mine"
        assert command(export, f"run={run}", "format=weights", "overwrite=true").code == 0
        (tmp_path / "mine.pth").unlink()


@pytest.mark.parametrize("overwrite", ["true", "false"])
def test_a_folder_in_the_place_of_the_file_is_refused_before_anything_is_loaded(run, command, tmp_path, monkeypatch, overwrite):
    monkeypatch.setattr("fcnseg.runs.stored_network.load", lambda *_, **__: pytest.fail("the network is loaded"))
    (tmp_path / "exp").mkdir()
    outcome = command(export, f"run={run}", "format=weights", "out=exp/", f"overwrite={overwrite}")
    assert (outcome.code, "out=exp is a folder" in outcome.err, "out=exp/net.pth" in outcome.err) == (2, True, True), (
        outcome.err
    )


def test_without_the_data_set_generated_images_are_taken_and_that_is_said(run, command, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    cfg = OmegaConf.load(copy / CONFIG)
    cfg.data.root = "gone"
    OmegaConf.save(cfg, copy / CONFIG)
    outcome = command(export, f"run={copy}", "format=weights")
    assert outcome.code == 0, outcome.err
    assert "generated images" in outcome.out
    assert not (tmp_path / "gone").exists()


def test_a_run_that_names_code_is_exported_only_with_trust(run, command, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "copy")
    cfg = OmegaConf.load(copy / CONFIG)
    cfg.model._target_ = "theirs.Net"
    OmegaConf.save(cfg, copy / CONFIG)
    (tmp_path / "theirs.py").write_text("from fcnseg.models import Wilson as Net\nprint('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    outcome = command(export, f"run={copy}", "format=weights")
    assert outcome.code == 2
    assert "trust=true" in outcome.err
    assert "theirs" not in sys.modules
    assert not (tmp_path / "copy.pth").exists()
    outcome = command(export, f"run={copy}", "format=weights", "trust=true")
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    assert outcome.code == 0, outcome.err
    assert "it ran" in outcome.out


def test_weights_are_read_by_torchvision_and_by_another_run(backbone_run, command, tmp_path):
    assert command(export, f"run={backbone_run}", "format=weights", "out=some.pth").code == 0
    state, net = torch.load(tmp_path / "some.pth", weights_only=True), stored_network.load(backbone_run).net
    theirs = get_model("mobilenet_v3_small")
    found = theirs.load_state_dict(state, strict=False)
    assert {name.split(".")[0] for name in found.missing_keys} == {"classifier"}
    again = Transfer(3, backbone="mobilenet_v3_small", weights=str(tmp_path / "some.pth"))
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value)
        assert torch.equal(again.backbone.state_dict()[name], value)
    whole = of_network(state)
    assert whole.keys() == net.state_dict().keys()
    assert all(torch.equal(value, whole[name]) for name, value in net.state_dict().items())
    size = sum(value.numel() * value.element_size() for value in whole.values())
    assert (tmp_path / "some.pth").stat().st_size < 1.2 * size  # nothing is stored twice


def test_weights_of_a_librarys_whole_network_are_read_back(tmp_path):
    net = trained(NETS["lraspp"]())
    with (tmp_path / "some.pth").open("wb") as file:
        formats.write_weights(Graph(net, raw=False), {"run": "x"}, file)
    again = Torchvision(5, arch="lraspp_mobilenet_v3_large", weights=str(tmp_path / "some.pth"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())


def test_a_weight_that_a_file_lacks_is_not_that_of_the_graph(tmp_path):
    graph = Graph(trained(NETS["fcn"]()), raw=True)
    first, *others = graph.net.state_dict()
    torch.save({f"net.{name}": graph.net.state_dict()[name] for name in others}, tmp_path / "some.pth")
    with pytest.raises(RuntimeError, match=f"Missing key.*{first}"):
        formats.open_weights(tmp_path / "some.pth", graph)


def test_a_network_that_torch_cannot_trace_is_named(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, image):
            return image if image.sum().item() > 0 else -image

    with Path(tmp_path / "some.pt2").open("wb") as file, pytest.raises(ValueError, match="cannot export Odd"):
        formats.write_torch(Graph(Odd(), raw=True), {}, file)


def test_every_format_has_an_ending():
    assert module.ENDINGS.keys() == formats.FORMATS.keys()
