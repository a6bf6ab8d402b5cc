"""A trained network as a file for other programs: its graph, the formats, and the comparison of a file with the network."""
