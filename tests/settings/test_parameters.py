"""Parameters of classes and functions of the user's own, as configs name them."""

import pytest
from omegaconf import OmegaConf

from fcnseg.settings.parameters import check_parameters

OWN = """
from functools import wraps

def net(num_classes, width=8): ...

@wraps(net)
def wrapped(*args, extra=0, **others): ...

def anything(**values): ...

class Dark:
    def __init__(self, p, image=None): ...
    def __call__(self, image, mask, draw): ...

def dark(image, mask, draw, *, p): ...

def inner(root, *, seed): ...

class Several:
    def __init__(self, parts): ...
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    (tmp_path / "own_parameters.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def of(key, name, **values):
        node = {"_target_": f"own_parameters.{name}", **values}
        check_parameters(OmegaConf.create({key: node})[key], key)

    return of


@pytest.mark.parametrize(
    ("key", "name", "values"),
    [
        ("model", "wrapped", {"width": 4, "extra": 3}),
        ("model", "anything", {"net": {"_target_": "own_parameters.net", "num_classes": 4}}),
        ("data", "anything", {"source": {"_target_": "own_parameters.Several", "parts": {"seed": 3}}}),
        ("data.source", "Several", {"parts": {"_target_": "own_parameters.inner", "_partial_": True, "seed": 3}}),
        ("aug", "Dark", {"p": 0.5, "image": "x.png"}),  # whose objects get image, mask and draw when they are called
    ],
)
def test_a_parameter_of_ones_own_is_taken(check, key, name, values):
    check(key, name, **values)


@pytest.mark.parametrize(
    ("key", "name", "values", "message"),
    [
        ("model", "wrapped", {"wide": 4}, r"model\.wide: .* it has width, extra"),
        ("model", "anything", {"num_classes": 4}, r"model\.num_classes cannot be set"),
        ("loss", "anything", {"class_pixels": 4}, r"loss\.class_pixels cannot be set"),
        ("data", "anything", {"seed": 4}, r"data\.seed cannot be set"),
        ("aug", "dark", {"_partial_": True, "p": 0.5, "image": "x.png"}, r"aug\.image cannot be set"),
        ("aug", "Dark", {"p": 0.5, "only_watches": True}, r"aug\.only_watches: .* no such parameter"),
        ("model", "Several", {"parts": [{"_target_": "own_parameters.net", "widht": 4}]}, r"model\.parts\[0\]\.widht: "),
    ],
)
def test_a_parameter_that_would_have_no_effect_is_refused(check, key, name, values, message):
    with pytest.raises(ValueError, match=message):
        check(key, name, **values)
