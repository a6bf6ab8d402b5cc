"""The measurements of `python -m fcnseg.benchmark`: arms that train the same network, their parts, and a day on a GPU."""
