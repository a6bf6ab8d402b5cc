"""What `python -m fcnseg.check` is made of: a survey of a data set, and the tables that show it."""
