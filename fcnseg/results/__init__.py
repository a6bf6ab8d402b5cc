"""The result of a run: the findings of its test, with where they come from and what they cost.

result: the content of result.json, key by key.
scoring, per_image: the scores of a test, and its findings in every image.
costs: what a network costs: multiplications, time, memory.
provenance: the code, the versions and the machine behind a result.
summary: what a command prints of a result.
paper: the results that the paper prints.
"""
