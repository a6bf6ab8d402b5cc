"""Train, compare and explain fully convolutional networks for semantic segmentation on PASCAL VOC-2012."""
