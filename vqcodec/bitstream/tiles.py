"""How a picture is cut into tiles that are coded on their own, and windows around them.

The prior of a tile knows nothing of other tiles, so a tile can be decoded, or be lost, alone. The
networks do not stop at tiles: they read a window that reaches as far beyond the tile as they see,
and what they make of the margin is thrown away. So tiles leave no seams.
"""

from dataclasses import dataclass

from vqcodec import limits

__all__ = ["Tile", "split"]


@dataclass(frozen=True)
class Tile:
    """A rectangle of a picture, in pixels; right and bottom edges may lie beyond the picture.

    number: in the order of the file.
    """

    number: int
    top: int
    left: int
    bottom: int
    right: int

    def window(self, reach: int, step: int, height: int, width: int) -> "Tile":
        """The tile and `reach` pixels around it, at multiples of `step`, inside the picture."""
        return Tile(
            self.number,
            top=max(0, self.top - reach) // step * step,
            left=max(0, self.left - reach) // step * step,
            bottom=min(height, -(-(self.bottom + reach) // step) * step),
            right=min(width, -(-(self.right + reach) // step) * step),
        )

    def meets(self, other: "Tile") -> bool:
        """Whether the two have a pixel in common."""
        rows = self.top < other.bottom and other.top < self.bottom
        return rows and self.left < other.right and other.left < self.right


def split(height: int, width: int, stride: int) -> list[Tile]:
    """Tiles of a picture, row by row: as few as `TILE` allows, and about equally large.

    Args:
        height, width: of the picture, in pixels.
        stride: the coarsest of the model; all edges are multiples of it.
    """
    rows, cols = _edges(height, stride), _edges(width, stride)
    boxes = [
        (top, left, bottom, right)
        for top, bottom in zip(rows, rows[1:], strict=False)
        for left, right in zip(cols, cols[1:], strict=False)
    ]
    return [Tile(number, *box) for number, box in enumerate(boxes)]


def _edges(length: int, stride: int) -> list[int]:
    cells, count = -(-length // stride), -(-length // limits.TILE)
    return [stride * (cells * k // count) for k in range(count + 1)]
