"""Data sets: how they become batches on the device, and how they are looked at.

In the order in which an image comes through:

settings: the values that the settings of data may have; sizes.
dataset: what a data set is: its classes, its image sets, the files of each image.
voc, sbd, shapes, formats: VOC-2012, SBD, a generated data set, and folders in other people's formats.
download: gets VOC-2012 and SBD.
decode: a file as an upright photograph, or as labels.
packed: an image set, decoded and resized once, as arrays on the disk.
loader: batches of it, in an order that the seed and the epoch decide.
batch: what a batch is.
augment, transforms, mixing: flips and chains of augmentations; crops, colours and blur; mixtures of images.
module: all of this together, as Lightning's data module.
pictures: images and labels as pictures for people.
"""
