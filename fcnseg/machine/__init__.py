"""The machine below a run: files, memory, cores, signals, processes on its devices, and the faster precision."""
