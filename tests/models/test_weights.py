"""What networks start from: torchvision's weights for segmentation, files, and runs of one's own."""

import hashlib
import sys

import pytest
import torch
from torchvision import models

from fcnseg import build
from fcnseg.models import SMP, Torchvision
from fcnseg.models.weights import load, read

ARCH = "lraspp_mobilenet_v3_large"  # 3.2 M parameters
LAST = ("classifier.low_classifier", "classifier.high_classifier")


@pytest.fixture(scope="module")
def state():
    """A state dict of ARCH for five classes, its batch norms' statistics other than a new network's."""
    torch.manual_seed(1)
    net = models.get_model(ARCH, weights_backbone=None, num_classes=5)
    net.train()(torch.randn(2, 3, 64, 64))
    return net.state_dict()


def assert_loaded(net, state, *, new=()):
    for key, value in net.state_dict().items():
        assert key.startswith(new) if new and key.startswith(new) else torch.equal(value, state[key]), key


def test_a_segmentation_network_gives_torchvisions_logits(state, tmp_path):
    torch.save(state, tmp_path / "some.pth")
    theirs = models.get_model(ARCH, weights_backbone=None, num_classes=5).eval()
    theirs.load_state_dict(state)
    ours = Torchvision(5, arch=ARCH, weights=str(tmp_path / "some.pth")).eval()
    image = torch.randn(1, 3, 37, 65)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image)["out"])


def test_another_number_of_classes_replaces_the_last_layer_and_says_so(state, tmp_path, capsys):
    torch.save(state, tmp_path / "some.pth")
    net = Torchvision(3, arch=ARCH, weights=str(tmp_path / "some.pth"))
    assert_loaded(net.net, state, new=LAST)
    told = capsys.readouterr().err
    assert "some.pth are for 5 classes, not 3: classifier.high_classifier.bias, classifier.high_classifier.weight" in told
    Torchvision(5, arch=ARCH, weights=str(tmp_path / "some.pth"))
    assert capsys.readouterr().err == ""


def test_the_auxiliary_head_is_left_out(tmp_path):
    torch.manual_seed(1)
    whole = models.get_model("fcn_resnet50", weights_backbone=None, num_classes=5, aux_loss=True)
    torch.save(whole.state_dict(), tmp_path / "some.pth")
    net = Torchvision(5, arch="fcn_resnet50", weights=str(tmp_path / "some.pth"))
    assert_loaded(net.net, whole.state_dict())
    assert not [name for name, _ in net.named_parameters() if "aux" in name]


def test_weights_of_another_network_are_refused(state, tmp_path):
    torch.save(state, tmp_path / "some.pth")
    with pytest.raises(ValueError, match=r"some\.pth are of another network: .*\n  backbone\.0\.0\.weight"):
        Torchvision(5, arch="deeplabv3_resnet50", weights=str(tmp_path / "some.pth"))
    other = {**state, f"{LAST[0]}.weight": torch.ones(3, 40, 1, 1)}
    net = Torchvision(5, arch=ARCH, weights=None).net
    with pytest.raises(ValueError, match=r"low_classifier\.weight: found \(3, 40, 1, 1\), wanted \(5, 40, 1, 1\)"):
        load(net, other, "some.pth")  # without a number of classes, as for a backbone


@pytest.mark.parametrize(
    ("arch", "weights", "told"),
    [
        (
            "resnet18",
            None,
            "unknown model.arch=resnet18: wanted one of torchvision's segmentation networks: .*fcn_resnet50",
        ),
        (ARCH, "COCO", "model.weights=COCO: wanted .*COCO_WITH_VOC_LABELS_V1, DEFAULT for lraspp"),
    ],
)
def test_what_there_is_not_is_refused(arch, weights, told):
    with pytest.raises(ValueError, match=told):
        Torchvision(21, arch=arch, weights=weights)


@pytest.mark.parametrize("classes", [21, 3])
def test_weights_by_torchvisions_name_come_from_its_cache(tmp_path, monkeypatch, classes):
    torch.manual_seed(1)
    state = models.get_model(ARCH, weights_backbone=None, num_classes=21).state_dict()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (cache := tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, cache / "draft")
    name = f"lraspp-{hashlib.sha256((cache / 'draft').read_bytes()).hexdigest()[:8]}.pth"
    (cache / "draft").rename(cache / name)
    weights = models.get_model_weights(ARCH).COCO_WITH_VOC_LABELS_V1
    monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:1/{name}")
    net = Torchvision(classes, arch=ARCH, weights="COCO_WITH_VOC_LABELS_V1")
    assert_loaded(net.net, state, new=() if classes == 21 else LAST)
    (cache / name).unlink()
    with pytest.raises(ValueError, match=rf"cannot download model\.weights=DEFAULT .* fetch http://127.0.0.1:1/{name} by"):
        Torchvision(classes, arch=ARCH, weights="DEFAULT")


@pytest.mark.parametrize("settings", [["model=fpn"], ["model=transfer"], ["model=torchvision"]])
def test_a_run_starts_from_another_run(tmp_path, train_in, settings):
    first = train_in(tmp_path, *settings, "name=first")
    # A learning rate of 0: what the second run ends with is what it began with.
    second = train_in(tmp_path, *settings, f"model.weights={first}", "optimizer.lr=0", "seed=1")
    before, after = read(first), read(second)
    assert before.keys() == after.keys()
    for key, value in before.items():
        if "running_" not in key and "num_batches" not in key:
            assert torch.equal(value, after[key]), key


def test_a_run_of_another_network_or_of_none_is_refused(tmp_path, train_in, command, tiny):
    from fcnseg.train import train

    first = train_in(tmp_path, "model=fcn")
    outcome = command(train, *tiny("model=fpn", f"model.weights={first}"))
    assert outcome.code == 2
    assert "are of another network: choose that one, other weights, or model.weights=null\n" in outcome.err
    (tmp_path / "empty").mkdir()
    outcome = command(train, *tiny("model=fpn", f"model.weights={tmp_path / 'empty'}"))
    assert outcome.code == 2
    assert "cannot read model.weights=" in outcome.err
    assert "best.ckpt" in outcome.err


def test_what_is_no_network_is_refused(compose):
    cfg = compose("model._target_=builtins.dict")
    with pytest.raises(ValueError, match=r"builtins\.dict is a dict: wanted a torch\.nn\.Module"):
        build.network(cfg, 3)


def test_smp_takes_torchvisions_weights_of_its_encoder(tmp_path, capsys):
    pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(1)
    state = models.mobilenet_v2().state_dict()
    torch.save(state, tmp_path / "encoder.pth")
    net = SMP(5, arch="FPN", encoder="mobilenet_v2", weights=str(tmp_path / "encoder.pth"))
    assert_loaded(net.net.encoder, state)
    torch.save(net.net.state_dict(), tmp_path / "whole.pth")
    other = SMP(3, arch="FPN", encoder="mobilenet_v2", weights=str(tmp_path / "whole.pth"))
    assert_loaded(other.net, net.net.state_dict(), new="segmentation_head.0.")
    assert "are for 5 classes, not 3: segmentation_head.0.bias, segmentation_head.0.weight are new" in capsys.readouterr().err


@pytest.mark.parametrize(("arch", "encoder"), [("Unett", "mobilenet_v2"), ("Unet", "mobilenet_v9"), ("Unet", "tu-nonsense")])
def test_what_smp_has_not_is_refused(arch, encoder):
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(ValueError, match=rf"cannot make model.arch={arch} model.encoder={encoder} model.weights=None: ."):
        SMP(5, arch=arch, encoder=encoder, weights=None)


@pytest.mark.parametrize(("arch", "multiple"), [("Unet", 32), ("PAN", 128)])
def test_smp_pads_to_what_the_network_needs(arch, multiple):
    pytest.importorskip("segmentation_models_pytorch")
    net = SMP(5, arch=arch, encoder="mobilenet_v2", weights=None).eval()
    assert net.multiple == multiple
    with torch.no_grad():
        assert net(torch.randn(1, 3, 33, 190)).shape == (1, 5, 33, 190)


def test_an_encoder_for_images_of_one_size_is_refused():
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(ValueError, match=r"tu-hiera_tiny_224 .*: it takes no image of 32, 64 or 128 pixels"):
        SMP(5, arch="Unet", encoder="tu-hiera_tiny_224", weights=None)


def test_smp_without_its_package_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ValueError, match=r'model=smp needs a package .* pip install "\.\[smp\]"'):
        SMP(5, arch="Unet", encoder="resnet18", weights=None)
