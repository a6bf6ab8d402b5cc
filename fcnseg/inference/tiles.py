"""The overlapping tiles of a photograph that a network sees part by part; each tile keeps its middle."""

from itertools import pairwise
from typing import NamedTuple

Slices = tuple[slice, slice]  # rows, columns


class Tile(NamedTuple):
    """A part of a photograph.

    Attributes:
        seen: The place of the tile in the photograph.
        kept: The place of its kept part in the photograph.
        inner: The place of its kept part in the tile.
    """

    seen: Slices
    kept: Slices
    inner: Slices

    @property
    def size(self) -> tuple[int, int]:
        """Its height and width."""
        rows, columns = self.seen
        return rows.stop - rows.start, columns.stop - columns.start


def tiles(height: int, width: int, side: int, overlap: int) -> list[Tile]:
    """The tiles of a photograph, row by row: what is kept of them covers it, each pixel once.

    Args:
        height: The photograph's height in pixels.
        width: The photograph's width in pixels.
        side: The side of a tile. The last tile of a row or a column is moved inwards, so that it is inside; a photograph
            that is smaller makes smaller tiles.
        overlap: The least number of pixels that neighbours share, less than `side`. Each keeps the half next to it.
    """
    rows, columns = _cut(height, side, overlap), _cut(width, side, overlap)
    return [Tile(*zip(row, column, strict=True)) for row in rows for column in columns]


def _cut(length: int, side: int, overlap: int) -> list[tuple[slice, slice, slice]]:
    """The slices `seen`, `kept` and `inner` of each `Tile`, along one axis."""
    starts = [*range(0, max(length - side, 0), side - overlap), max(length - side, 0)]
    ends = [start + min(side, length) for start in starts]
    # Neighbours meet in the middle of the pixels that they share: there, both see as much around a pixel.
    meet = [(start + end) // 2 for (_, start), (end, _) in zip(pairwise(starts), pairwise(ends), strict=True)]
    spans = zip(starts, ends, [0, *meet], [*meet, length], strict=True)
    return [(slice(a, b), slice(low, high), slice(low - a, high - a)) for a, b, low, high in spans]
