"""The Lightning callbacks that act around the steps of a run: one callback per file."""
