"""Masks as polygons and runs of pixels: they are drawn at the size of the photograph, the later over the earlier."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fcnseg.data.dataset import VOID
from fcnseg.data.formats.classes import ClassList

EDGES = 1024  # the number of a polygon's edges that are worked on at once
Inside = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]  # (n, 2) x and y in pixels: pixel 0 reaches from 0 to 1, and its centre is at 0.5


@dataclass(frozen=True)
class Drawing:
    """The shapes in the mask of one image.

    Attributes:
        size: The width and height of the image, as the file of the shapes gives them.
        shapes: The name of a class and a shape, the lowest first: COCO's `segmentation`, or one of labelme's `shapes`.
    """

    size: tuple[int, int]
    shapes: Sequence[tuple[str, Any]]

    def draw(self, path: Path, name: str, image: Image.Image | None, class_list: ClassList) -> Image.Image:
        """The labels, mode "L"; pixels outside all shapes are background, or void without such a class.

        Raises:
            ValueError: The size is not the image's, or a shape is broken or has no class.
        """
        width, height = self.size
        if image is not None and image.size != self.size:
            found = f"{width}x{height}, its image {image.width}x{image.height}"
            raise ValueError(f"{path}: the size of {name} is {found}: save the image upright, and annotate it anew")
        ground = class_list.classes.background
        labels = np.full((height, width), VOID if ground is None else ground, dtype=np.uint8)
        for word, shape in self.shapes:
            if word not in class_list.words:
                wanted = f"one of {', '.join(class_list.classes.names)}, or map: in classes.yaml"
                raise ValueError(f"{path}: {name} has a shape of the class {word}, wanted {wanted}")
            try:
                labels[pixels_of(shape, (height, width))] = class_list.words[word]
            except (ValueError, TypeError, LookupError, OSError, OverflowError, MemoryError) as error:
                found = f"{path}: a shape of the class {word} in {name} is broken ({error})"
                raise ValueError(f"{found}: draw it again, or remove it") from error
        return Image.fromarray(labels)


def pixels_of(shape: Any, size: tuple[int, int]) -> Inside:
    """The (H, W) pixels that a shape covers.

    Args:
        shape: COCO's list of polygons or its `{counts, size}`, or labelme's `{shape_type, points, ...}`.
        size: The height and width of the image in pixels.

    Raises:
        ValueError: The shape is of another kind, or broken.
    """
    if isinstance(shape, list):
        return pixels_of_polygons([np.array(flat, dtype=np.float64).reshape(-1, 2) for flat in shape], size)
    if "counts" in shape:
        return pixels_of_runs(shape["counts"], shape["size"], size)
    kind, points = shape.get("shape_type") or "polygon", np.array(shape["points"], dtype=np.float64).reshape(-1, 2)
    if kind == "polygon":
        return pixels_of_polygons([points], size)
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(0), points.max(0)  # of two opposite corners, or of all four
        return pixels_of_polygons([np.array([[left, top], [right, top], [right, bottom], [left, bottom]])], size)
    if kind == "circle":
        centre, rim = points
        y, x = np.ogrid[: size[0], : size[1]]
        covered: Inside = (x + 0.5 - centre[0]) ** 2 + (y + 0.5 - centre[1]) ** 2 <= ((rim - centre) ** 2).sum()
        return covered
    if kind == "mask":
        return _pixels_of_picture(shape["mask"], points, size)
    raise ValueError(f"it is a {kind}, wanted a polygon, rectangle, circle or mask")


def pixels_of_polygons(polygons: Iterable[Points], size: tuple[int, int]) -> Inside:
    """The (H, W) pixels whose centres are inside one of some polygons, each by the even-odd rule.

    Pillow also draws the border's pixels and cuts coordinates to whole numbers: two neighbours would overlap.

    A pixel is inside if an odd number of edges cross its row at the left of its centre. Work is done only in the rows and
    columns that a polygon reaches. Edges are taken in blocks: one by one, a thousand edges take nine times as long; all at
    once, memory would have no limit.
    """
    found = np.zeros(size, dtype=bool)
    for points in polygons:
        if not np.isfinite(points).all():
            raise ValueError("a coordinate is no number")
        # The pixels whose centres may be inside: [[left, first row], [right, last row]], each last one excluded.
        reach = np.ceil(np.stack([points.min(0), points.max(0)]) - 0.5).clip(0, size[::-1]).astype(np.int64)
        (left, first), (right, last) = reach.tolist()
        crossings = np.zeros((last - first, right - left + 1), dtype=np.int32)
        edges = np.concatenate([points, np.roll(points, -1, axis=0)], axis=1)  # (n, 4)
        for start in range(0, len(edges), EDGES):
            x0, y0, x1, y1 = block = edges[start : start + EDGES].T
            top, bottom = np.ceil(np.sort(block[1::2], axis=0) - 0.5).clip(first, last).astype(np.int64)
            # (K,) from here on, for each of the K pairs of an edge and a row that it crosses.
            edge = np.repeat(np.arange(len(top)), bottom - top)
            row = np.arange(len(edge)) - np.repeat(np.cumsum(bottom - top) - bottom, bottom - top)
            x = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
            np.add.at(crossings, (row - first, np.ceil(x - 0.5).clip(left, right).astype(np.int64) - left), 1)
        found[first:last, left:right] |= np.cumsum(crossings[:, :-1], axis=1) % 2 == 1
    return found


def pixels_of_runs(counts: Any, stored: Sequence[int], size: tuple[int, int]) -> Inside:
    """Pixels from COCO's run lengths, down the columns, with the outside first: numbers, or their text.

    Raises:
        ValueError: The runs have another size.
    """
    lengths = counts if isinstance(counts, list) else _lengths(counts)
    if tuple(stored) != size or sum(lengths) != size[0] * size[1] or min(lengths, default=0) < 0:
        raise ValueError(f"it has {sum(lengths)} pixels of {stored}, wanted {list(size)}")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size[1], size[0]).T  # (W, H) -> (H, W)


def _lengths(text: str) -> list[int]:
    """Run lengths from COCO's text: 5 bits a letter, the lowest first; from the third on, minus the length two before it."""
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last letter of a number, whose highest bit is its sign
            value -= (bits & 16) << shift - 4
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths


def _pixels_of_picture(picture: str, points: Points, size: tuple[int, int]) -> Inside:
    """Labelme's shape "mask": a small picture as text, and the corners of its place."""
    with Image.open(io.BytesIO(base64.b64decode(picture)), formats=["PNG"]) as file:
        stamp = np.asarray(file.convert("L")) > 0
    left, top = np.round(points.min(0)).astype(int).tolist()
    found = np.zeros(size, dtype=bool)
    if min(left, top) < 0:  # a slice would count it from the other end
        raise ValueError("it begins outside the image")
    part = found[top : top + stamp.shape[0], left : left + stamp.shape[1]]
    part[:] = stamp[: part.shape[0], : part.shape[1]]
    return found


def coco(content: Mapping[str, Any]) -> tuple[list[str], dict[str, Drawing]]:
    """The names of the categories, by id, and the drawing of every image by its `file_name`.

    Raises:
        LookupError, TypeError, ValueError: The content is not COCO's.
    """
    names = {int(one["id"]): str(one["name"]) for one in content["categories"]}
    shapes: dict[Any, list[tuple[str, Any]]] = {one["id"]: [] for one in content["images"]}
    for one in content["annotations"]:
        if one.get("segmentation"):
            shapes[one["image_id"]].append((names[one["category_id"]], one["segmentation"]))
    drawings = {
        str(one["file_name"]): Drawing((int(one["width"]), int(one["height"])), shapes[one["id"]]) for one in content["images"]
    }
    return [names[number] for number in sorted(names)], drawings


def labelme(content: Mapping[str, Any]) -> Drawing:
    """The drawing in a JSON file of labelme's.

    Raises:
        LookupError, TypeError, ValueError: The content is not labelme's.
    """
    kept = ("shape_type", "points", "mask")
    shapes = [(str(one["label"]), {key: one[key] for key in kept if key in one}) for one in content["shapes"]]
    return Drawing((int(content["imageWidth"]), int(content["imageHeight"])), shapes)
