"""Colours that a file declares without an ICC profile, as the ICC profile that says the same.

Chromaticities and a transfer curve become a profile of some 500 bytes, so that the samples are kept
as they are and every viewer shows them rightly. What no such profile can say (PQ, HLG) is a note.

Sources: ITU-T H.273 for code points; ICC.1:2022; Bradford adaptation: Lam (1985).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["SRGB_PRIMARIES", "Colours", "from_code_points", "from_png"]

Primaries = tuple[float, ...]  # x and y of white, red, green, blue
Matrix = NDArray[np.float64]

_D65: Final = (0.3127, 0.3290)
_C: Final = (0.310, 0.316)
SRGB_PRIMARIES: Final = (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
_PRIMARIES: Final[dict[int, tuple[str, Primaries]]] = {
    1: ("BT.709", SRGB_PRIMARIES),
    4: ("BT.470 System M", (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),
    5: ("BT.601 625-line", (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),
    6: ("BT.601 525-line", (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    7: ("SMPTE 240M", (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    8: ("generic film", (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049)),
    9: ("BT.2020", (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    11: ("DCI-P3", (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: ("Display P3", (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    22: ("EBU Tech. 3213", (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077)),
}
_UNSPECIFIED: Final = 2
# The curves of video cameras (1, 6, 14, 15) are meant for the screens that sRGB is made for, and
# viewers take them for its curve.
_AS_SRGB: Final = {1, 2, 6, 13, 14, 15}
_GAMMAS: Final = {4: 2.2, 5: 2.8, 8: 1.0}
_OTHER_CURVES: Final = {
    7: "SMPTE 240M",
    9: "logarithmic",
    10: "logarithmic",
    11: "xvYCC",
    12: "BT.1361",
    16: "PQ",
    17: "SMPTE ST 428",
    18: "HLG",
}
_BRADFORD: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50: Final = np.array([0xF6D6, 0x10000, 0xD32D]) / 65536  # as ICC profiles have it
_SRGB_CURVE: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_GAMMA_RANGE: Final = (0.1, 10.0)  # of sensible files


@dataclass(frozen=True)
class Colours:
    """What samples mean.

    Attributes:
        primaries: chromaticities of white, red, green and blue, x and y each.
        gamma: exponent of the curve from samples to light; None is the curve of sRGB.
        note: what could not be kept; the samples then count as sRGB.
    """

    primaries: Primaries = SRGB_PRIMARIES
    gamma: float | None = None
    note: str = ""

    def profile(self, grey: bool) -> bytes | None:
        """The ICC profile of such samples, grey or RGB; None where they count as sRGB."""
        plain = self.primaries == SRGB_PRIMARIES or grey  # in grey, no primaries show
        if self.note or (plain and self.gamma is None):
            return None
        if self.gamma is None:
            curve = struct.pack(">4s4xHxx5i", b"para", 3, *map(_fixed, _SRGB_CURVE))
        else:
            curve = struct.pack(">4s4xHxxi", b"para", 0, _fixed(self.gamma))
        if grey:
            return _assemble(b"GRAY", {b"kTRC": curve})
        to_d50, columns = _matrices(self.primaries)
        tags = {b"chad": _numbers(b"sf32", to_d50.ravel())}
        for name, column in zip((b"r", b"g", b"b"), columns.T, strict=True):
            tags |= {name + b"XYZ": _numbers(b"XYZ ", column), name + b"TRC": curve}
        return _assemble(b"RGB ", tags)


def from_code_points(primaries: int, transfer: int, full_range: bool = True) -> Colours:
    """The colours of H.273 code points: `nclx` of AVIF and HEIF, `cICP` of PNG.

    Args:
        full_range: of the samples as they are decoded.
    """
    known = _PRIMARIES.get(1 if primaries == _UNSPECIFIED else primaries)
    name = known[0] if known else f"primaries {primaries}"
    curve = "sRGB" if transfer in _AS_SRGB else _OTHER_CURVES.get(transfer, f"curve {transfer}")
    if not known or not (transfer in _AS_SRGB or transfer in _GAMMAS):
        return Colours(note=f"samples are {name} {curve}: taken as sRGB")
    if not full_range:
        return Colours(note="samples are of narrow range: taken as of full range")
    return Colours(known[1], _GAMMAS.get(transfer))


def from_png(info: Mapping[Any, Any]) -> Colours:
    """The colours of `gAMA` and `cHRM`, as Pillow has them in `info`; `sRGB` overrules both."""
    if "srgb" in info:
        return Colours()
    primaries, gamma = info.get("chromaticity"), info.get("gamma")
    if not isinstance(primaries, tuple) or _near(primaries, SRGB_PRIMARIES, 0.003):
        primaries = SRGB_PRIMARIES
    elif not _is_sound(primaries):
        return Colours(note="damaged chromaticities left out: samples count as sRGB")
    exponent = None
    if isinstance(gamma, float):
        exponent = 1 / gamma if gamma > 0 else math.inf
        if not _GAMMA_RANGE[0] <= exponent <= _GAMMA_RANGE[1]:
            return Colours(note=f"gamma {gamma:.4g} left out: samples count as sRGB")
        if primaries == SRGB_PRIMARIES and abs(gamma * 2.2 - 1) <= 0.03:
            exponent = None
    return Colours(primaries, exponent)


def _near(found: Primaries, wanted: Primaries, tolerance: float) -> bool:
    return len(found) == len(wanted) and all(
        abs(one - other) <= tolerance for one, other in zip(found, wanted, strict=True)
    )


def _is_sound(primaries: Primaries) -> bool:
    """Whether a profile can hold them."""
    if len(primaries) != 8 or min(primaries[1::2]) <= 0.01 or max(primaries) > 1.5:
        return False
    try:
        matrices = np.concatenate([part.ravel() for part in _matrices(primaries)])
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(matrices).all() and abs(matrices).max() < 16)


def _matrices(primaries: Primaries) -> tuple[Matrix, Matrix]:
    """(3, 3) each: XYZ under this white -> XYZ under D50; linear RGB -> XYZ under D50."""
    x, y = np.array(primaries[0::2]), np.array(primaries[1::2])
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])  # columns: white, red, green, blue
    white, columns = xyz[:, 0], xyz[:, 1:]
    columns = columns * np.linalg.solve(columns, white)
    scale = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    to_d50 = np.linalg.solve(_BRADFORD, scale @ _BRADFORD)
    return to_d50, to_d50 @ columns


def _fixed(number: float) -> int:
    return round(number * 65536)


def _numbers(kind: bytes, numbers: NDArray[np.float64]) -> bytes:
    return kind + bytes(4) + struct.pack(f">{numbers.size}i", *map(_fixed, numbers.tolist()))


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(data), 28) + data


def _assemble(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    """A display profile, version 4.4. Tags of equal contents share them."""
    tags = {b"desc": _text("Declared by the file"), b"cprt": _text("No copyright"), **tags}
    tags = {**tags, b"wtpt": _numbers(b"XYZ ", _D50)}
    offsets: dict[bytes, int] = {}
    start = 128 + 4 + 12 * len(tags)
    data = b""
    for contents in tags.values():
        if contents not in offsets:
            offsets[contents] = start + len(data)
            data += contents + bytes(-len(contents) % 4)
    head = struct.pack(">II", start + len(data), 0)
    head += struct.pack(">I4s4s4s", 0x04400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s28x3i48x", 2026, 1, 1, 0, 0, 0, b"acsp", *map(_fixed, _D50.tolist()))
    table = struct.pack(">I", len(tags))
    for name, contents in tags.items():
        table += struct.pack(">4sII", name, offsets[contents], len(contents))
    return head + table + data
