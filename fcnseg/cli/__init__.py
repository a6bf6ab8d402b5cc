"""What every command shares: its config, its help, its messages, its sweeps."""
