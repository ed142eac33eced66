"""A picture -> the bytes of its file: at a quality, or at the one that meets a target."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vqcodec.bitstream import container
from vqcodec.bitstream.container import ALPHA, EXIF, ICC, XMP, Container
from vqcodec.bitstream.tiles import split
from vqcodec.encoder.allocation import quality_for
from vqcodec.encoder.rate_control import Goal, reach
from vqcodec.encoder.tile import write_tile
from vqcodec.networks.model import Model
from vqcodec.options import Callbacks, EncodeOptions
from vqcodec.picture import metrics, opacity
from vqcodec.picture.picture import Picture
from vqcodec.resources import trim_heap

__all__ = ["Encoder"]

# Of the progress that is left, a trial takes 1 - this: how many will come is not known before.
ANOTHER_TRIAL = 0.75


@dataclass(frozen=True)
class Encoder:
    """One picture, and how it is to be coded."""

    model: Model
    picture: Picture
    options: EncodeOptions

    def at_quality(self, quality: float, progress: Callable[[float], None]) -> bytes:
        """The file at a quality 0..100 that was asked for.

        Args:
            progress: called with the share of the work done, 0..1.
        """
        model, picture = self.model, self.picture
        height, width = picture.rgb.shape[:2]
        quality = quality_for(model.config, picture.rgb, quality)
        signalled = round(quality)
        levels = self.options.levels or len(model.config.levels)
        levels = min(levels, model.levels_worth(signalled))
        tiles = split(height, width, model.config.strides[0])
        coded = []
        for tile in tiles:

            def advance(share: float, number: int = tile.number) -> None:
                progress((number + share) / len(tiles))

            effort = self.options.effort
            coded.append(write_tile(model, picture.rgb, tile, quality, effort, levels, advance))
            if len(tiles) > 1:
                trim_heap()
        entries = list(itertools.chain(*zip(*coded, strict=True)))  # part after part
        return container.pack(
            Container(
                width=width,
                height=height,
                quality=signalled,
                model_id=model.model_id,
                level_count=levels,
                parts=tuple(part for part, _ in entries),
                payload=b"".join(stream for _, stream in entries),
                grey=picture.grey,
                chunks=tuple(_chunks(picture)),
            )
        )

    def at_goal(
        self, goal: Goal, decode: Callable[[bytes], Picture], callbacks: Callbacks
    ) -> tuple[float, bytes]:
        """The quality that comes to a goal, and the file.

        Args:
            decode: what the file decodes to, for a goal in dB.
        Raises:
            TargetError: no quality comes to the goal.
        """
        numbers, pixels = itertools.count(), self.picture.width * self.picture.height

        def attempt(quality: float) -> bytes:
            number = next(numbers)

            def advance(share: float) -> None:
                callbacks.progress(1 - ANOTHER_TRIAL ** (number + share))

            return self.at_quality(quality, advance)

        def measure(data: bytes) -> float:
            if goal.unit == "dB":
                return metrics.psnr_db(self.picture.rgb, decode(data).rgb)
            return 8 * len(data) / pixels if goal.unit == "bpp" else len(data)

        best = reach(goal, attempt, measure)
        if not goal.will_do(best.value):
            callbacks.notes(f"{best.value:.5g} {goal.unit} is the nearest to {goal.asked:g}")
        return best.quality, best.data


def _chunks(picture: Picture) -> Iterator[tuple[bytes, bytes]]:
    if picture.alpha is not None:
        yield ALPHA, opacity.encode(picture.alpha)
    for kind, data in ((ICC, picture.icc), (EXIF, picture.exif), (XMP, picture.xmp)):
        if data is not None:
            yield kind, data
