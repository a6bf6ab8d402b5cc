"""The parts that all commands share: config, help, messages and sweeps."""
