"""What every network promises, once for all of them; then the numbers and stages of the paper's tables."""

import importlib.util
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fcnseg import models
from fcnseg.models import FCN, FPN, SMP, Torchvision, Transfer, UNet, Wilson
from fcnseg.models.layers import BatchNorm, Deconv
from fcnseg.models.wilson import max_unpool

NETS = {
    "fcn": lambda: FCN(5, widths=(3, 4, 5, 6, 7)),
    "wilson": lambda: Wilson(5, widths=(3, 4, 5, 6, 7, 8)),
    "transfer": lambda: Transfer(5, backbone="resnet18", weights=None),
    "unet": lambda: UNet(5, widths=(3, 4, 5, 6, 7)),
    "fpn": lambda: FPN(5, backbone="resnet18", weights=None, width=16),
    "fpn at twice the size": lambda: FPN(5, backbone="resnet18", weights=None, width=16, input_scale=2),
    "lraspp": lambda: Torchvision(5, arch="lraspp_mobilenet_v3_large", weights=None),
    "deeplab": lambda: Torchvision(5, arch="deeplabv3_mobilenet_v3_large", weights=None),
    "smp": lambda: SMP(5, arch="Unet", encoder="mobilenet_v2", weights=None),
}
LIBRARIES = ("lraspp", "deeplab", "smp")  # networks that are drawn at random as their libraries draw them
if not importlib.util.find_spec("segmentation_models_pytorch"):  # an extra
    del NETS["smp"]
FULL = {
    "fcn": lambda: FCN(21),
    "wilson": lambda: Wilson(21),
    "transfer": lambda: Transfer(21, backbone="resnet34", weights=None),
    "unet": lambda: UNet(21),
}
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def test_no_network_is_left_out():
    tested = {type(make()).__name__ for make in NETS.values()} | {"SMP"}  # which needs an extra
    assert tested == set(models.__all__)


@pytest.fixture(params=NETS)
def net(request):
    torch.manual_seed(0)
    return NETS[request.param]()


def trained(net):
    """The network after one pass in training mode, so that its batch norms' statistics are no longer those of a new one."""
    net.train()(torch.randn(2, 3, 64, 64))
    return net.eval()


@pytest.mark.parametrize("size", [(224, 224), (37, 500), (65, 33), (33, 32), (32, 32)])
def test_logits_have_the_size_of_the_image_even_alone_in_a_batch(net, size):
    with torch.no_grad():
        logits = net.eval()(torch.randn(1, 3, *size))
    assert logits.shape == (1, 5, *size)
    assert logits.isfinite().all()


def test_logits_are_no_probabilities(net):
    with torch.no_grad():
        logits = trained(net)(10 * torch.randn(2, 3, 64, 64))
    assert logits.min() < 0
    assert (logits.sum(dim=1) - 1).abs().max() > 0.1


def test_padding_is_zeros_below_and_to_the_right_and_is_cropped_away(net):
    if isinstance(net, Torchvision):
        pytest.skip("torchvision's networks take any size without padding")
    image = torch.randn(1, 3, 37, 65)
    trained(net)
    with torch.no_grad():
        by_hand = net(F.pad(image, (0, 96 - 65, 0, 64 - 37)))[..., :37, :65]
        if isinstance(net, UNet):  # pads only to 16
            by_hand = net(F.pad(image, (0, 80 - 65, 0, 48 - 37)))[..., :37, :65]
        torch.testing.assert_close(net(image), by_hand)


def test_gradient_reaches_every_parameter(net):
    net.train()(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, p in net.named_parameters() if p.ndim > 1 and not p.grad.any()] == []


def test_one_image_of_32_pixels_is_a_batch_to_train_on(net):
    net.train()(torch.randn(1, 3, 32, 32)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert all(value.isfinite().all() for value in net.state_dict().values())


def test_batch_norm_is_torchs_where_a_channel_has_two_values_and_takes_the_statistics_where_it_has_one():
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for image in (torch.randn(2, 3, 1, 1), torch.randn(1, 3, 2, 1)):
        assert torch.equal(ours(image), theirs(image))
    before = ours.running_mean.clone()
    assert torch.equal(ours(image[..., :1, :]), theirs.eval()(image[..., :1, :]))
    assert torch.equal(ours.running_mean, before)
    assert torch.equal(ours.running_mean, theirs.running_mean)


def test_deterministic_mode_forward_and_backward(net, deterministic):
    image = torch.randn(2, 3, 64, 64)
    found = []
    for _ in "12":
        net.zero_grad()
        torch.manual_seed(0)  # for dropout
        net.train()(image).square().mean().backward()
        found.append([p.grad.clone() for p in net.parameters()])
    assert all(map(torch.equal, *found))


def test_export_gives_the_same_numbers(net):
    image = torch.randn(1, 3, 37, 65)
    trained(net)
    exported = torch.export.export(net, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(image), net(image))


def test_state_dict_carries_everything(net, request):
    image = torch.randn(1, 3, 64, 64)
    other = NETS[request.node.callspec.params["net"]]().eval()
    with torch.no_grad():
        wanted = trained(net)(image)
        assert not torch.equal(other(image), wanted)
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(image), wanted)


@pytest.mark.parametrize("name", [name for name in NETS if name not in LIBRARIES])
def test_xavier_uniform_weights_and_zero_biases(name):
    net = NETS[name]()
    for name, conv in net.named_modules():
        if isinstance(conv, CONVOLUTIONS):
            out, into, *kernel = conv.weight.shape
            bound = math.sqrt(6 / ((into + out) * math.prod(kernel)))
            assert conv.weight.abs().max() <= bound, name
            if conv.weight.numel() > 100:
                assert conv.weight.abs().max() > 0.9 * bound, name
                assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15), name
            assert conv.bias is None or not conv.bias.any(), name


@pytest.mark.parametrize("name", [name for name in NETS if name != "transfer"])
def test_channels_last_images_give_the_same_logits(name):
    net = trained(NETS[name]())
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = net(image)
        found = net.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("name", "count"), {"fcn": 5500245, "wilson": 12590517, "transfer": 22857845, "unet": 31033045}.items()
)
def test_parameters_with_21_classes(name, count):
    with torch.device("meta"):
        net = FULL[name]()
    assert sum(p.numel() for p in net.parameters()) == count


def shapes_of(name, *stages):
    """Shapes (C, H) that each module named in `stages` (or each of its children) gives for a 224x224 image."""
    with torch.device("meta"):
        net, image = FULL[name](), torch.empty(1, 3, 224, 224)
    found = []

    def hook(module, args, output):
        assert output.shape[-1] == output.shape[-2]
        found.append(tuple(output.shape[1:3]))

    for stage in stages:
        part = net.get_submodule(stage)
        for module in part.children() if stage in ("encoder", "decoder") else (part,):
            module.register_forward_hook(hook)
    assert net.eval()(image).shape == (1, 21, 224, 224)
    return found


@pytest.mark.parametrize(
    ("name", "stages", "shapes"),
    [
        ("fcn", ("encoder",), [(32, 112), (64, 56), (128, 28), (256, 14), (512, 7)]),
        ("fcn", ("decoder",), [(512, 14), (256, 28), (128, 56), (64, 112), (32, 224)]),
        ("wilson", ("stem", "encoder"), [(32, 224), (64, 224), (128, 112), (256, 56), (512, 28), (1024, 14)]),
        ("wilson", ("decoder", "head"), [(512, 14), (256, 28), (128, 56), (64, 112), (32, 224), (32, 224)]),
        ("transfer", ("backbone.layer1", "backbone.layer4", "backbone"), [(64, 56), (512, 7), (512, 7)]),
        ("transfer", ("decoder",), [(256, 14), (128, 28), (64, 56), (32, 112), (16, 224)]),
        ("unet", ("stem", "encoder"), [(64, 224), (128, 112), (256, 56), (512, 28), (1024, 14)]),
        ("unet", ("decoder",), [(512, 28), (256, 56), (128, 112), (64, 224)]),
    ],
)
def test_stages_of_the_tables(name, stages, shapes):
    assert shapes_of(name, *stages) == shapes


def test_wilson_undoes_its_pools_from_7_to_112_pixels(monkeypatch):
    pooled = []

    def recording(x, indices):
        pooled.append((x.shape[1], x.shape[2]))
        return max_unpool(x, indices)

    monkeypatch.setattr("fcnseg.models.wilson.max_unpool", recording)
    shapes_of("wilson")
    assert pooled == [(1024, 7), (512, 14), (256, 28), (128, 56), (64, 112)]


def test_wilson_adds_each_deconvolution_to_the_stage_of_its_size():
    torch.manual_seed(0)
    net = trained(Wilson(5, widths=(3, 4, 5)))
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        one = net.stem(image)
        two, at_two = F.max_pool2d(net.encoder[0](one), 2, return_indices=True)
        three, at_three = F.max_pool2d(net.encoder[1](two), 2, return_indices=True)
        x = net.decoder[0](F.max_unpool2d(three, at_three, 2)) + two
        x = net.decoder[1](F.max_unpool2d(x, at_two, 2)) + one
        torch.testing.assert_close(net(image), net.classifier(net.head(x)))


def test_unet_joins_each_up_convolution_with_the_stage_of_its_size():
    torch.manual_seed(0)
    net = UNet(5, widths=(3, 4, 5))
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        one = net.stem(image)
        two = net.encoder[0](F.max_pool2d(one, 2))
        x = net.encoder[1](F.max_pool2d(two, 2))
        for stage, skip in zip(net.decoder, (two, one), strict=True):
            x = stage.conv(torch.cat([skip, stage.up(x)], dim=1))
        torch.testing.assert_close(net(image), net.classifier(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_deconv_is_torchs(stride):
    sizes = {"kernel_size": 3, "stride": stride, "padding": 1, "output_padding": stride - 1}
    ours, theirs = Deconv(4, 5, **sizes), nn.ConvTranspose2d(4, 5, **sizes)
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 4, 7, 6)
    found, wanted = ours(image), theirs(image)
    torch.testing.assert_close(found, wanted)
    for output in (found, wanted):
        output.square().sum().backward()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_max_unpool_is_torchs_exactly(memory_format):
    x = torch.randint(-3, 3, (2, 5, 12, 8)).float().contiguous(memory_format=memory_format)  # many ties
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    values = torch.randn_like(pooled)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    found, wanted = max_unpool(ours, indices), F.max_unpool2d(theirs, indices, 2)
    assert torch.equal(found, wanted)
    assert found.is_contiguous(memory_format=torch.channels_last)
    upstream = torch.randn_like(wanted)
    found.backward(upstream)
    wanted.backward(upstream)
    assert torch.equal(ours.grad, theirs.grad)


def test_max_unpool_passes_deterministic_mode_where_torchs_does_not(deterministic):
    pooled, indices = F.max_pool2d(torch.randn(1, 2, 4, 4), 2, return_indices=True)
    with pytest.raises(RuntimeError, match="deterministic"):
        F.max_unpool2d(pooled, indices, 2)
    pooled.requires_grad_()
    max_unpool(pooled, indices).sum().backward()
    assert torch.equal(pooled.grad, torch.ones_like(pooled))
