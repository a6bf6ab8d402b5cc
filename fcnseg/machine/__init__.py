"""The machine below a run: files, memory, cores, signals, processes on its devices, and the faster precision.

files: files and folders that are there whole or not at all.
limits: cores and memory, and which settings to lower when a step needs too much.
precision: whether bfloat16 is faster than float32 here.
signals: requests to stop, acted on between two batches.
processes, distributed: how the processes of a run start and end, and what they tell each other.
threads: work on many images, in threads and with a progress bar.
"""
