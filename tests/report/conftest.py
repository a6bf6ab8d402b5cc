"""Reports that are drawn faster: nearly all of a report's time goes into its pictures."""

import pytest


@pytest.fixture
def few_pictures(monkeypatch):
    """Of every kind of pictures, a report has one image, where it would have two to eight."""
    from fcnseg.report import galleries, mistakes, two_runs, worst_images

    for module in (mistakes, two_runs):
        monkeypatch.setattr(module, "PICTURED", 1)
    for module, name in ((worst_images, "OF_A_KIND"), (worst_images, "SUSPECTED_PICTURED"), (galleries, "PICKED")):
        monkeypatch.setattr(module, name, 1)
