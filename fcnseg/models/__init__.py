"""The paper's networks: (N, 3, H, W) normalised images to (N, num_classes, H, W) logits, any H and W from 32 up.

The paper is "Fully Convolutional Networks for Semantic Segmentation: Implementing Deep Learning on PASCAL VOC-2012" by
Hikaru Isayama, Avi Mehta, Wilson Liao and Julia Wong. All tables, sections and equations named in this package are its.
"""

from fcnseg.models.fcn import FCN
from fcnseg.models.transfer import Transfer
from fcnseg.models.unet import UNet
from fcnseg.models.wilson import Wilson

__all__ = ["FCN", "Transfer", "UNet", "Wilson"]
