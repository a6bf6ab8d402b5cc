"""A trained network as a file for other programs.

formats: how each format is written, and opened again.
parity: the comparison of such a file with the network.
"""
