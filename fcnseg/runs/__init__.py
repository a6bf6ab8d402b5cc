"""The run folder: its name, its checkpoints and its logs.

In the order in which one may read them:

identity: which settings make a run another one, and the folder's name.
folder: `Run`, with the folder's files and its lock.
status: status.json, which says whether a run goes on, or how it has ended.
checkpoint_files: checkpoints, written whole or not at all, and checked before they are used.
checkpoint_io: how Lightning reads and writes them.
run_log: metrics.csv and TensorBoard's files, written while a run trains.
read_files, older: a stored config or table, perhaps damaged, perhaps of an earlier version.
stored_network: the network of a run, without running code that its folder names. Unlike a command line, it is not trusted.
reopen: the same for the data, the task and the trainer, to test a run again.
"""
