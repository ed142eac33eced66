"""Rate-distortion plots, with matplotlib from the extra `eval`."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]

Points = Sequence[tuple[float, float]]

MAX_BPP = 1.0
# Okabe and Ito (2008): told apart by colour-blind readers too; markers help in print.
STYLES = (
    ("#000000", "o"),
    ("#0072b2", "s"),
    ("#d55e00", "^"),
    ("#009e73", "D"),
    ("#cc79a7", "v"),
)


def draw(curves: Mapping[str, Points], title: str, label: str) -> dict[str, bytes]:
    """The curves as a picture: suffix (".svg", ".png") -> bytes of the file.

    Args:
        curves: codec -> (bits per pixel, metric), the one to stand out first.
        label: the metric and its unit.
    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure  # no pyplot: it looks for a screen and keeps state

    # Text as text and no random names: the same results give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vqcodec"}):
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(curves.items()):
            colour, marker = STYLES[number % len(STYLES)]
            axes.plot(
                *zip(*sorted(points), strict=True),
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=1.2 if number else 2.2,
                label=name,
                zorder=9 - number,
            )
        axes.set(title=title, xlabel="rate (bits per pixel)", ylabel=label)
        axes.set_xlim(0, MAX_BPP)
        if seen := [v for points in curves.values() for rate, v in points if rate <= MAX_BPP]:
            margin = 0.05 * (max(seen) - min(seen)) or 1.0
            axes.set_ylim(min(seen) - margin, max(seen) + margin)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        return {".svg": _save(figure, "svg"), ".png": _save(figure, "png")}


def _save(figure: "Figure", kind: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(file, format=kind, dpi=150, metadata=metadata)
    return file.getvalue()
