"""What a data set holds, and what is wrong with it: `python -m fcnseg.check`.

survey: counts of its images and classes, broken files, tables.
contact_sheet: some of its images with their masks, as a picture.
"""
