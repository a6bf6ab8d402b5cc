"""A network's logits, enlarged to the size of a photograph: the labels that they mean there, and how sure these are."""

import torch
from torch import Tensor

BAND = 2**20  # pixels that are enlarged at once: they need no more memory for a larger photograph


def labels(logits: Tensor, height: int, width: int) -> Tensor:
    """The class with the highest logit at every pixel, when the logits are enlarged bilinearly in float64.

    A new pixel's logits are weighted means of those of its four neighbours. If one class is the highest at all four, it is
    the highest at the new pixel, too. So the only pixels computed are those whose neighbours differ in class: one in ten in
    most photographs.

    Shape:
        logits (C, h, w), on the CPU -> (height, width) uint8.
    """
    winners = logits.max(0).indices.byte()  # as argmax, in a fifth of its time on the CPU
    if winners.shape == (height, width):
        return winners
    table, (top, bottom, down), (left, right, across) = _neighbours(logits, height, width)
    right_same = winners == winners[:, (torch.arange(winners.shape[1]) + 1).clamp(max=winners.shape[1] - 1)]
    below = (torch.arange(len(winners)) + 1).clamp(max=len(winners) - 1)
    # (h, w): whether the four neighbours of the area between a place and the next agree.
    alike = right_same & right_same[below] & (winners == winners[below])
    found = winners[top][:, left]  # (height, width)
    for rows in torch.arange(height).split(max(BAND // width, 1)):
        row, column = (~alike[top[rows]][:, left]).nonzero(as_tuple=True)  # (pixels,) each
        row += rows[0]
        upper, lower = top[row] * winners.shape[1], bottom[row] * winners.shape[1]
        x, y = across[column, None], down[row, None]  # (pixels, 1)
        corners = (line + side[column] for line in (upper, lower) for side in (left, right))
        upper_left, upper_right, lower_left, lower_right = (table[place].double() for place in corners)  # (pixels, C)
        enlarged = torch.lerp(torch.lerp(upper_left, upper_right, x), torch.lerp(lower_left, lower_right, x), y)  # (pixels, C)
        found[row, column] = enlarged.max(1).indices.byte()
    return found


def scores(logits: Tensor, height: int, width: int) -> Tensor:
    """The probability of the class of `labels`, from the softmax of the enlarged logits.

    Shape:
        logits (C, h, w), on the CPU -> (height, width) float32, 1/C to 1.
    """
    table, (top, bottom, down), (left, right, across) = _neighbours(logits.float(), height, width)
    table = table.view(*logits.shape[1:], -1)  # (h, w, C)
    wide = torch.lerp(table[:, left], table[:, right], across[:, None].float())  # (h, width, C)
    found = torch.empty(height, width)
    for rows in torch.arange(height).split(max(BAND // width, 1)):
        enlarged = torch.lerp(wide[top[rows]], wide[bottom[rows]], down[rows, None, None].float())  # (rows, width, C)
        found[rows] = (enlarged.amax(2) - enlarged.logsumexp(2)).exp()
    return found


# For every new row or column: the old one before it, the old one after it, and the weight of the latter.
Neighbours = tuple[Tensor, Tensor, Tensor]


def _neighbours(logits: Tensor, height: int, width: int) -> tuple[Tensor, Neighbours, Neighbours]:
    """The logits as (h * w, C), and the neighbours of every new row and column, as in `F.interpolate` with mode="bilinear"."""
    return logits.flatten(1).t().contiguous(), _along(logits.shape[1], height), _along(logits.shape[2], width)


def _along(old: int, new: int) -> Neighbours:
    at = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(0, old - 1)
    before = at.long()
    return before, (before + 1).clamp(max=old - 1), at - before
