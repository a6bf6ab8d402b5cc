"""The measurements of `python -m fcnseg.benchmark`: arms that train the same network, their parts, and a day on a GPU.

arms: five ways to train the same network.
step: a training step by itself, and the machine's limits.
parts: the parts of a training, each beside another way to do it.
tables: rows measured in processes of their own, and printed.
gpu_day: all that a GPU must show, in the minutes for which there is one.
"""
