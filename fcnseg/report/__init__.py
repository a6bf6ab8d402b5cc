"""The report on a folder of runs, as one HTML page, as Markdown and as a CSV file."""
