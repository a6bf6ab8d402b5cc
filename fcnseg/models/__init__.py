"""Networks, the paper's four first: (N, 3, H, W) normalised images to (N, num_classes, H, W) logits, any H and W from 32 up.

The paper is "Fully Convolutional Networks for Semantic Segmentation: Implementing Deep Learning on PASCAL VOC-2012" by
Hikaru Isayama, Avi Mehta, Wilson Liao and Julia Wong. All tables, sections and equations named in this package are its.

To add a network: a file here, a line below, and a config in `conf/model` that names the class. Then a test fails until a
small one of it is in `tests/models/test_contract.py`.

fcn, wilson, transfer, unet: the paper's networks.
fpn, torchvision, smp: other networks, the last two from libraries.
layers, backbones: what several networks are made of.
weights: the weights that a network starts from.
enlarge, tta: logits at a photograph's size; averages over several views of an image.
"""

from fcnseg.models.fcn import FCN
from fcnseg.models.fpn import FPN
from fcnseg.models.smp import SMP
from fcnseg.models.torchvision import Torchvision
from fcnseg.models.transfer import Transfer
from fcnseg.models.unet import UNet
from fcnseg.models.wilson import Wilson

__all__ = ["FCN", "FPN", "SMP", "Torchvision", "Transfer", "UNet", "Wilson"]
