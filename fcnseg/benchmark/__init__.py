"""What `python -m fcnseg.benchmark` measures: arms that train the same network, parts by themselves, and growth."""
