"""The formats of exported files: the graph in them, how each is written, and how it is opened again to be compared."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shapes
from torchvision.models import shufflenetv2

from fcnseg.data.dataset import MEAN, STD
from fcnseg.data.settings import MIN_SIZE, sides
from fcnseg.models import SMP, Torchvision
from fcnseg.models.backbones import OnBackbone
from fcnseg.models.weights import METADATA, NET, of_network
from fcnseg.runs.folder import Run
from fcnseg.runs.stored_network import Trained

OPSET = 18  # the version of ONNX's operators
SIZES = {0: Dim("N", min=1), 2: Dim("H", min=MIN_SIZE), 3: Dim("W", min=MIN_SIZE)}  # the images that a graph takes
Metadata = Mapping[str, Any]
Opened = Callable[[Tensor], tuple[Tensor, ...]]  # (N, 3, H, W) uint8 images to the outputs of the graph


class Graph(nn.Module):
    """A network with the normalisation before it and the choice of the class behind it.

    Args:
        net: The network, in evaluation mode: normalised images to logits.
        raw: Whether the graph gives only the logits.

    Shape:
        image (N, 3, H, W), uint8 RGB, H and W from 32 up -> labels (N, H, W), uint8, and their scores (N, H, W), which are
        the softmax of the logits at the label; or, if raw, logits (N, C, H, W).
    """

    def __init__(self, net: nn.Module, *, raw: bool) -> None:
        super().__init__()
        self.net, self.raw = net, raw
        self.mean, self.std = (nn.Buffer(torch.tensor(values).mul_(255)[:, None, None]) for values in (MEAN, STD))  # (3, 1, 1)
        self.eval()

    def logits(self, image: Tensor) -> Tensor:
        """The logits (N, C, H, W); the same as after `data.batch.normalize`, whose form is for images of one known width."""
        logits: Tensor = self.net((image.float() - self.mean) / self.std)
        return logits

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Labels and scores, or logits."""
        logits = self.logits(image)
        return logits if self.raw else (logits.argmax(1).to(torch.uint8), logits.softmax(1).amax(1))


class Format(NamedTuple):
    """The functions that write a kind of file, and open it again to be compared with PyTorch.

    Attributes:
        write: Writes a graph and its metadata into an open file.
        open: Opens the file again. It gets the graph that was written, which it must not change, for files that hold none.
    """

    write: Callable[[Graph, Metadata, BinaryIO], None]
    open: Callable[[Path, Graph], Opened]


def metadata(run: Run, trained: Trained, *, name: str, raw: bool) -> dict[str, Any]:
    """The metadata of a run's network `trained` in a file of the format `name`, as values for JSON."""
    outputs = {"logits": "float32 (N, C, H, W)"} if raw else {"labels": "uint8 (N, H, W)", "scores": "float32 (N, H, W)"}
    graph = {"inputs": {"image": f"uint8 RGB (N, 3, H, W), H and W from {MIN_SIZE} up"}, "outputs": outputs}
    return {
        "run": run.path.resolve().name,
        "commit": (run.result or {}).get("commit"),
        "torch": str(torch.__version__),
        **({"opset": OPSET} if name == "onnx" else {}),
        **trained.classes.plain(),
        "size": list(sides(trained.config.data.size)),  # height and width that it was trained at
        **({} if name == "weights" else graph),
    }


@contextmanager
def _explained(graph: Graph) -> Iterator[None]:
    """Turn any error of torch's exporters in the `with` block into a message, and leave out their warnings."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # they share no class
        why = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"torch cannot export {type(graph.net).__name__} ({why}): format=weights writes the weights without a graph"
        ) from error


def traced(graph: Graph) -> ExportedProgram:
    """The graph as a program for images of any number, height and width."""
    image = torch.zeros(2, 3, 2 * MIN_SIZE + 6, 3 * MIN_SIZE - 6, dtype=torch.uint8)
    # Otherwise the program refuses sizes that need no padding, or whose smallest feature map has one pixel.
    with shapes.patch(backed_size_oblivious=True), _one_pixel_allowed(graph):  # type: ignore[attr-defined]
        return torch.export.export(graph, (image,), dynamic_shapes=(SIZES,))


@contextmanager
def _one_pixel_allowed(graph: Graph) -> Iterator[None]:
    """Have torch.export allow feature maps of one pixel, and batches of one image, in the `with` block.

    torch.export would exclude maps of one pixel and batches of one image, whose memory layout is ambiguous. In the block, the
    layers that ask for the layout are replaced: those after a layer norm, for which maps are transposed, and ShuffleNet's
    shuffle.
    """
    turns = any(isinstance(module, nn.LayerNorm) for module in graph.modules())
    convolutions = [module for module in graph.modules() if turns and isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))]
    with ExitStack() as stack:
        for convolution in convolutions:
            stack.enter_context(convolution.register_forward_pre_hook(_contiguous))
        stack.enter_context(patch.object(shufflenetv2, "channel_shuffle", _shuffle))
        yield


def _contiguous(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in inputs)


def _shuffle(x: Tensor, groups: int) -> Tensor:
    """It computes `shufflenetv2.channel_shuffle`: (N, C, H, W), the channels of the groups in turn."""
    places = torch.arange(x.shape[1]).view(groups, -1).T.flatten()  # (C,)
    return x[:, places]


def write_onnx(graph: Graph, metadata: Metadata, file: BinaryIO) -> None:
    """Write an ONNX model; each value of the metadata is JSON in its `metadata_props`.

    Raises:
        ValueError: The network cannot be exported.
    """
    with _explained(graph):
        program = torch.onnx.export(
            traced(graph),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(metadata["outputs"]),
            dynamic_shapes=(SIZES,),  # for their names
            verbose=False,
        )
        assert program is not None  # it is only for dynamo=False
        for output in program.model.graph.outputs:
            assert output.shape is not None
            # In place of a formula of both with the padding that is cut off again.
            output.shape[-2], output.shape[-1] = "H", "W"
        program.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
        file.write(program.model_proto.SerializeToString())


def open_onnx(path: Path, _: Graph) -> Opened:
    """The file in ONNX Runtime, on as many threads of the CPU as PyTorch has."""
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda image: tuple(map(torch.from_numpy, session.run(None, {"image": image.numpy()})))


def write_torch(graph: Graph, metadata: Metadata, file: BinaryIO) -> None:
    """Write a program of torch.export; the metadata are JSON in its extra file `metadata.json`.

    Raises:
        ValueError: The network cannot be exported.
    """
    with _explained(graph):
        torch.export.save(traced(graph), file, extra_files={"metadata.json": json.dumps(metadata)})


def open_torch(path: Path, _: Graph) -> Opened:
    """The file as a module of PyTorch's."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda image: _tuple(module(image))


def write_weights(graph: Graph, metadata: Metadata, file: BinaryIO) -> None:
    """Write tensors by name, and the metadata under a name of their own; `torch.load(weights_only=True)` reads it.

    Every weight of the network is there as `net.<its name>`. Weights of a library's network (a backbone, or all of
    torchvision's and segmentation_models_pytorch's) are also there by the library's own names, without taking room.
    """
    net = graph.net
    known = net.backbone if isinstance(net, OnBackbone) else net.net if isinstance(net, (Torchvision, SMP)) else nn.Module()
    whole = {f"{NET}{name}": value for name, value in net.state_dict().items()}
    torch.save({**known.state_dict(), **whole, METADATA: dict(metadata)}, file)


def open_weights(path: Path, graph: Graph) -> Opened:
    """A copy of the graph with the file's weights in place of its own, of which none may be missing."""
    graph = deepcopy(graph)
    graph.net.load_state_dict(of_network(torch.load(path, weights_only=True)))
    return lambda image: _tuple(graph(image))


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


FORMATS = {
    "onnx": Format(write_onnx, open_onnx),
    "torch": Format(write_torch, open_torch),
    "weights": Format(write_weights, open_weights),
}
