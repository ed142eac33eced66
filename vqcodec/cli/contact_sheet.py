"""Contact sheets: several pictures on one."""

import math
from collections.abc import Sequence

from PIL import Image

__all__ = ["contact_sheet"]

GAP = 4  # pixels between the pictures
GREY = (40, 40, 40)


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in a grid that is as square as can be, in reading order."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = (side + GAP for side in pictures[0].size)
    size = (columns * width - GAP, rows * height - GAP)
    sheet = Image.new("RGB", size, GREY)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet
