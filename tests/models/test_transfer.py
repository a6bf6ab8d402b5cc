import contextlib
import functools
import hashlib
import os
import pickle
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn
from torchvision import models

from fcnseg.models import FPN, Transfer
from fcnseg.models.backbones import layers_of, make_backbone

SMALL = "shufflenet_v2_x0_5"  # 1.4 M parameters


@pytest.fixture(scope="module")
def state():
    """A whole state dict of SMALL, its batch norms' statistics other than a new network's."""
    torch.manual_seed(1)
    net = models.get_model(SMALL)
    net.train()(torch.randn(2, 3, 64, 64))
    return net.state_dict()


@pytest.fixture
def save(tmp_path):
    def saved(what):
        torch.save(what, tmp_path / "some.pth")
        return str(tmp_path / "some.pth")

    return saved


def features_of(state):
    return {k: v for k, v in state.items() if not k.startswith("fc.")}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_from_a_file(state, save, dtype):
    path = save({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()})
    net = Transfer(21, backbone=SMALL, weights=path)
    wanted = {k: v.to(dtype).float() if v.is_floating_point() else v for k, v in features_of(state).items()}
    assert_same(net.backbone.state_dict(), wanted)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_the_classification_head_is_not_wanted(state, save):
    assert_same(make_backbone(SMALL, save(features_of(state))).state_dict(), features_of(state))


def test_features_are_torchvisions(state, save):
    whole = models.get_model(SMALL).eval()
    whole.load_state_dict(state)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = make_backbone(SMALL, save(state)).eval()(image)
        torch.testing.assert_close(whole.fc(features.mean([2, 3])), whole(image))


def test_decoder_of_a_pretrained_backbone_is_xaviers(state, save):
    net = Transfer(21, backbone=SMALL, weights=save(state))
    for conv in (*(block[0] for block in net.decoder), net.classifier):
        out, into, *kernel = conv.weight.shape
        bound = (6 / ((out + into) * kernel[0] * kernel[1])) ** 0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound
        assert not conv.bias.any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("conv5.0.weight"), [r"conv5\.0\.weight: found none, wanted \(1024, 192, 1, 1\)"]),
        (lambda s: s.update(extra=torch.ones(1)), [r"extra: found \(1,\), wanted none"]),
        (
            lambda s: s.update({"conv1.0.weight": torch.ones(24, 1, 3, 3)}),
            [r"conv1\.0\.weight: found \(24, 1, 3, 3\), wanted \(24, 3, 3, 3\)"],
        ),
        (
            lambda s: (s.pop("conv1.0.weight"), s.pop("conv5.1.bias"), s.update(extra=torch.ones(1))),
            [
                r"conv1\.0\.weight: found none, wanted ",
                r"conv5\.1\.bias: found none, wanted",
                r"extra: found \(1,\), wanted none",
            ],
        ),
    ],
    ids=["missing", "unexpected", "shape", "several"],
)
def test_weights_of_another_network_are_refused_by_key(state, save, change, told):
    other = dict(state)
    change(other)
    with pytest.raises(ValueError, match=r"some\.pth are of another network: ") as caught:
        make_backbone(SMALL, save(other))
    assert len(str(caught.value).splitlines()) == 1 + len(told)
    for line in told:
        caught.match(line)


def test_a_list_of_keys_is_cut_short(state, save):
    with pytest.raises(ValueError, match=r"(\n  \S+: found none, wanted \S.*){8}\n\.\.\. and \d+ more$"):
        make_backbone(SMALL, save({"fc.weight": state["fc.weight"]}))


@pytest.mark.parametrize("what", [torch.ones(3), [1, 2], "text"], ids=["tensor", "list", "text"])
def test_no_state_dict(save, what):
    with pytest.raises(ValueError, match=rf"holds a {type(what).__name__}, wanted a state dict"):
        make_backbone(SMALL, save(what))


DAMAGES = [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>no</html>"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_corrupt_file(state, tmp_path, save, damage):
    path = tmp_path / "some.pth"
    save(state)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot read model.weights=.*some\.pth"):
        make_backbone(SMALL, str(path))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read model.weights=.*absent\.pth"):
        make_backbone(SMALL, str(tmp_path / "absent.pth"))


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


WRITERS = [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", WRITERS)
def test_a_malicious_pickle_runs_nothing(tmp_path, write):
    mark, path = tmp_path / "mark", tmp_path / "evil.pth"
    write({"conv1.0.weight": Evil(mark)}, path)
    with pytest.raises(ValueError, match=r"cannot read model.weights=.*evil\.pth"):
        make_backbone(SMALL, str(path))
    assert not mark.exists()
    with contextlib.suppress(RuntimeError):
        torch.load(path, weights_only=False)
    assert mark.exists()  # the file is malicious


@pytest.mark.parametrize(
    ("backbone", "weights", "told"),
    [
        ("resnet34x", None, "unknown model.backbone=resnet34x: .*resnet34, "),
        ("deeplabv3_resnet50", None, "unknown model.backbone=deeplabv3_resnet50"),
        ("squeezenet1_0", None, r"model.backbone=squeezenet1_0 gives a map \(512, 3, 3\) of 64x64"),
        ("vit_b_16", None, "model.backbone=vit_b_16 has no feature map"),
        (SMALL, "IMAGENET", f"model.weights=IMAGENET: .*IMAGENET1K_V1, DEFAULT for {SMALL}"),
    ],
)
def test_what_there_is_not_is_refused(backbone, weights, told):
    with torch.device("meta"), pytest.raises(ValueError, match=told):
        Transfer(21, backbone=backbone, weights=weights)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that a real server on this machine serves, and its address; torchvision's downloads go to `home`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def point(monkeypatch, url):
    monkeypatch.setattr(models.get_model_weights(SMALL).IMAGENET1K_V1.value, "url", url)


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_weights_by_torchvisions_name_are_downloaded_once(state, site, tmp_path, monkeypatch, weights):
    folder, address = site
    torch.save(state, folder / "small")
    name = f"small-{hashlib.sha256((folder / 'small').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "small").rename(folder / name)
    point(monkeypatch, f"{address}/{name}")
    assert_same(make_backbone(SMALL, weights).state_dict(), features_of(state))
    (folder / name).unlink()
    assert_same(make_backbone(SMALL, weights).state_dict(), features_of(state))
    assert [path.name for path in (tmp_path / "home").rglob("*.pth")] == [name]


@pytest.mark.parametrize("kind", ["absent", "another hash", "no server"])
def test_a_failed_download_names_the_url(site, tmp_path, monkeypatch, kind):
    folder, address = site
    (folder / "hash-00000000.pth").write_bytes(b"anything")
    url = {
        "absent": f"{address}/absent-00000000.pth",
        "another hash": f"{address}/hash-00000000.pth",
        "no server": "http://127.0.0.1:1/x-00000000.pth",
    }[kind]
    point(monkeypatch, url)
    with pytest.raises(ValueError, match=rf"cannot download model\.weights=DEFAULT .* fetch {url} by hand"):
        make_backbone(SMALL, "DEFAULT")
    assert not list((tmp_path / "home").rglob("*.pth"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", WRITERS)
def test_a_malicious_pickle_among_downloads_runs_nothing(site, tmp_path, monkeypatch, write):
    _, address = site
    mark, cached = tmp_path / "mark", tmp_path / "home" / "hub" / "checkpoints" / "small-00000000.pth"
    cached.parent.mkdir(parents=True)
    write({"conv1.0.weight": Evil(mark)}, cached)
    url = f"{address}/{cached.name}"
    point(monkeypatch, url)
    with pytest.raises(ValueError, match=rf"{cached} is damaged or holds code: remove it\): fetch {url} by hand"):
        make_backbone(SMALL, "DEFAULT")
    assert not mark.exists()
    with contextlib.suppress(RuntimeError):
        models.get_model(SMALL, weights="DEFAULT")
    assert mark.exists()  # torchvision would have run it, and does again


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_download_names_the_url(state, site, tmp_path, monkeypatch, damage):
    _, address = site
    cached = tmp_path / "home" / "hub" / "checkpoints" / "small-00000000.pth"
    cached.parent.mkdir(parents=True)
    torch.save(state, cached)
    cached.write_bytes(damage(cached.read_bytes()))
    point(monkeypatch, url := f"{address}/{cached.name}")
    with pytest.raises(ValueError, match=rf"cannot download model\.weights=DEFAULT .* fetch {url} by hand"):
        make_backbone(SMALL, "DEFAULT")


@pytest.mark.parametrize("network", [Transfer, FPN])
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("mode", ["new", "after validation"])
def test_freeze(state, save, freeze, network, mode):
    net = network(21, backbone=SMALL, weights=save(state), freeze=freeze)
    if mode == "after validation":
        net.eval().train()
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    net(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert {m.training for m in net.backbone.modules()} == {not freeze}
    assert all(m.training for part in net.children() if part is not net.backbone for m in part.modules())
    assert {p.requires_grad for p in net.backbone.parameters()} == {not freeze}
    assert {p.grad is None for p in net.backbone.parameters()} == {freeze}
    assert all(p.grad is not None for name, p in net.named_parameters() if not name.startswith("backbone."))
    after = net.backbone.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed == ({name for name in before if "running_" in name or "num_batches" in name} if not freeze else set())
    assert not any(m.training for m in net.eval().modules())


@pytest.mark.parametrize(
    ("backbone", "channels"), [("resnet18", 512), ("resnet34", 512), ("mobilenet_v2", 1280), (SMALL, 1024)]
)
def test_decoder_begins_at_the_backbones_width(backbone, channels):
    with torch.device("meta"):
        net = Transfer(21, backbone=backbone, weights=None)
    widths = [(block[0].in_channels, block[0].out_channels) for block in net.decoder]
    assert widths == [(channels, 256), (256, 128), (128, 64), (64, 32), (32, 16)]
    assert isinstance(net.classifier, nn.Conv2d)
    assert net.classifier.out_channels == 21
    assert net.backbone.training


@pytest.mark.parametrize(
    ("backbone", "maps"),
    [
        ("resnet18", {4: 64, 8: 128, 16: 256, 32: 512}),
        ("mobilenet_v2", {4: 24, 8: 32, 16: 96, 32: 1280}),
        ("convnext_tiny", {4: 96, 8: 192, 16: 384, 32: 768}),
        ("efficientnet_b0", {4: 24, 8: 40, 16: 112, 32: 1280}),
        ("regnet_y_400mf", {4: 48, 8: 104, 16: 208, 32: 440}),
        (SMALL, {4: 24, 8: 48, 16: 96, 32: 1024}),
    ],
)
def test_a_pyramid_takes_the_last_map_of_each_stride(backbone, maps):
    net, seen = FPN(21, backbone=backbone, weights=None, width=7).eval(), []
    for lateral in net.laterals:
        lateral.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape[1:])))
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 96, 64)).shape == (2, 21, 96, 64)
    assert seen == [(channels, 96 // stride, 64 // stride) for stride, channels in reversed(maps.items())]


def test_layers_one_after_another_are_the_backbone(state, save):
    for backbone in (make_backbone(SMALL, save(state)), make_backbone("mobilenet_v3_small", None)):
        x = image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            for layer in layers_of(backbone.eval()):
                x = layer(x)
            assert torch.equal(x, backbone(image))


def test_a_pyramid_is_added_from_the_coarsest_map_to_the_finest():
    torch.manual_seed(0)
    net = FPN(5, backbone="resnet18", weights=None, width=8).eval()
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        x, maps = image, []
        for name, part in net.backbone.named_children():
            x = part(x)
            maps += [x] * name.startswith("layer")
        x = 0
        for level, lateral, block in zip(reversed(maps), net.laterals, net.blocks, strict=True):
            x = block(lateral(level) + x)
            finest, x = x, nn.Upsample(scale_factor=2)(x)
        wanted = nn.Upsample(scale_factor=4, mode="bilinear")(net.classifier(finest))
        torch.testing.assert_close(net(image), wanted)


def test_the_decoder_of_a_pyramid_has_a_width():
    with pytest.raises(ValueError, match=r"width=0: wanted a whole number from 1 up"):
        FPN(5, backbone=SMALL, weights=None, width=0)
