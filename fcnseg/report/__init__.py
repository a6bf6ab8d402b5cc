"""The report on a folder of runs, as one HTML page, as Markdown and as CSV files.

From the folders to the page:

collect: reads the folders of runs.
experiments: groups runs over their seeds, and finds titles for them.
study, statistics: the findings of the runs on one test set, image by image; their means and intervals.
sections: the list of sections, most of whose contents come from the next six.
tables, curves, galleries, worst_images, mistakes, two_runs: each what its name says.
charts: draws figures.
blocks, render: what a page consists of, and the page.
card: the model card of one run, made of the same blocks.
"""
