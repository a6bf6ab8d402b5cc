import pytest
import torch

from fcnseg.data.batch import denormalize, normalize
from fcnseg.data.dataset import MEAN, STD


def test_normalize_by_hand():
    image = torch.tensor([[0, 255], [128, 255], [0, 255]], dtype=torch.uint8).view(1, 3, 1, 2)
    wanted = [
        [-0.485 / 0.229, (1 - 0.485) / 0.229],
        [(128 / 255 - 0.456) / 0.224, (1 - 0.456) / 0.224],
        [-0.406 / 0.225, (1 - 0.406) / 0.225],
    ]
    torch.testing.assert_close(normalize(image), torch.tensor(wanted).view(1, 3, 1, 2))
    assert image.flatten().tolist() == [0, 255, 128, 255, 0, 255]  # left as it was


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_denormalize_gives_every_byte_back(memory_format):
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    image = image.contiguous(memory_format=memory_format)
    normal = normalize(image)
    assert normal.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(denormalize(normal), image)
    assert torch.equal(denormalize(torch.tensor([-99.0, 99]).view(1, 1, 1, 2).expand(1, 3, 1, 2))[0, 0, 0],
                       torch.tensor([0, 255], dtype=torch.uint8))  # fmt: skip


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalize_is_the_broadcast_over_height_and_width(memory_format):
    image = torch.randint(256, (2, 3, 37, 65), dtype=torch.uint8).contiguous(memory_format=memory_format)
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.equal(normalize(image), (image - mean) / std)
