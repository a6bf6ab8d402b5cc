"""What `python -m fcnseg.report` is made of: runs read, compared, laid out, and written as HTML and Markdown."""
