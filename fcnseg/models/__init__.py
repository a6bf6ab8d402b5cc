"""The paper's networks: (N, 3, H, W) normalised images to (N, num_classes, H, W) logits, any H and W from 32 up."""

from fcnseg.models.fcn import FCN
from fcnseg.models.transfer import Transfer
from fcnseg.models.unet import UNet
from fcnseg.models.wilson import Wilson

__all__ = ["FCN", "Transfer", "UNet", "Wilson"]
