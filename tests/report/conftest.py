"""Reports that are drawn faster: nearly all of a report's time goes into its pictures."""

import pytest


@pytest.fixture
def few_pictures(monkeypatch):
    """Of every kind of pictures, a report has one image, where it would have two to eight."""
    from fcnseg.report import confusions, per_image, samples, two_runs

    for module in (confusions, two_runs):
        monkeypatch.setattr(module, "PICTURED", 1)
    for module, name in ((per_image, "OF_A_KIND"), (per_image, "SUSPECTED_PICTURED"), (samples, "PICKED")):
        monkeypatch.setattr(module, name, 1)
