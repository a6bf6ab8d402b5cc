"""The run folder: its name, its settings, its checkpoints and its result."""
