"""Train, compare and explain networks for semantic segmentation on PASCAL VOC-2012."""
