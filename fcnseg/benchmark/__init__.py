"""The measurements of `python -m fcnseg.benchmark`: arms that train the same network, parts by themselves, and growth."""
