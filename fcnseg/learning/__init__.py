"""How any network learns from labelled images, and how it is scored. Nothing here knows of runs and commands.

losses: what is minimised, over labelled pixels.
metrics, image_metrics: scores from confusion matrices; what the test measures of every image besides.
formulas: what the report shares of these: IoU, calibration error.
optimizers, schedules: how weights are changed, and how fast.
task: `SegmentationTask`, which puts all of it together as Lightning's module.
divided_task: the same for batches that are divided among devices, or into parts.
"""
