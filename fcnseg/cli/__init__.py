"""The parts that all commands share: config, help, messages and sweeps.

In the order in which a command line goes through them:

command: `@command`, which turns a function of a config into a command.
arguments: the command line, parsed.
help: what `--help` prints.
configs: the files in `conf/`, and the default of every setting.
values: the check that every value has the type of its default.
sweep, launchers: many runs by one command, one after another, on GPUs or in the queue of SLURM.
messages: how a command ends if it cannot go on.
"""
