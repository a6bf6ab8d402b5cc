"""The Lightning callbacks that act around the steps of a run: one callback per file.

after_epoch: the base of those that act when an epoch is complete.
finite_loss: stops a run whose loss is NaN or infinite.
ema: has an average of the weights validated.
epoch_log: logs learning rates, times and pictures.
progress: prints.
early_stopping: stops a run that gets no better.
sessions: lists when a run was started and resumed.
checkpoints: saves a run so that it resumes exactly.
"""
