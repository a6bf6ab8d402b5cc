"""The parts of `python -m fcnseg.check`: a survey of a data set, and the tables that show it."""
