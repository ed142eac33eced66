"""Options name what is wrong with them, and the public functions have all of them."""

import inspect
import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest

from vqcodec import codec
from vqcodec.options import Callbacks, DecodeOptions, EncodeOptions, SampleOptions, ignore

OF_WRONG_TYPE = [
    (EncodeOptions, {"quality": "50"}),
    (EncodeOptions, {"quality": True}),
    (EncodeOptions, {"bpp": "0.5"}),
    (EncodeOptions, {"size": "20kB"}),
    (EncodeOptions, {"size": 2000.5}),
    (EncodeOptions, {"psnr": [30]}),
    (EncodeOptions, {"effort": 1.0}),
    (EncodeOptions, {"levels": 2.5}),
    (EncodeOptions, {"max_pixels": "many"}),
    (EncodeOptions, {"workers": 1.5}),
    (DecodeOptions, {"levels": 2.5}),
    (DecodeOptions, {"region": "0,0,8,8"}),
    (DecodeOptions, {"region": (0, 0, 8)}),
    (DecodeOptions, {"region": (0, 0, 8, 8.5)}),
    (DecodeOptions, {"workers": "2"}),
    (SampleOptions, {"count": 1.5}),
    (SampleOptions, {"count": 1, "size": 8}),
    (SampleOptions, {"count": 1, "seed": "a"}),
    (SampleOptions, {"count": 1, "quality": 30.5}),
]
OUT_OF_RANGE = [
    (EncodeOptions, {"quality": -1}),
    (EncodeOptions, {"quality": 100.5}),
    (EncodeOptions, {"quality": math.nan}),
    (EncodeOptions, {"bpp": 0.0}),
    (EncodeOptions, {"bpp": math.inf}),
    (EncodeOptions, {"size": 0}),
    (EncodeOptions, {"size": 10**400}),
    (EncodeOptions, {"psnr": math.nan}),
    (EncodeOptions, {"effort": 3}),
    (EncodeOptions, {"levels": 0}),
    (EncodeOptions, {"tune": "eyes"}),
    (EncodeOptions, {"max_pixels": 0}),
    (DecodeOptions, {"levels": 0}),
    (DecodeOptions, {"workers": 0}),
    (SampleOptions, {"count": 0}),
    (SampleOptions, {"count": 1, "temperature": -1}),
    (SampleOptions, {"count": 1, "top_p": 1.1}),
    (SampleOptions, {"count": 1, "seed": -1}),
]


@pytest.mark.parametrize(("kind", "bad"), OF_WRONG_TYPE)
def test_a_wrong_type_is_named(kind: Callable[..., Any], bad: dict[str, Any]) -> None:
    name = list(bad)[-1]
    with pytest.raises(TypeError, match=f"^{name} must be .*not "):
        kind(**bad)


@pytest.mark.parametrize(("kind", "bad"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_named(kind: Callable[..., Any], bad: dict[str, Any]) -> None:
    name = list(bad)[-1]
    with pytest.raises(ValueError, match=f"^{name} must be .*not "):
        kind(**bad)


@pytest.mark.parametrize(
    "both",
    [
        *({"quality": 50, "bpp": 1}, {"size": 900, "psnr": 30}, {"bpp": 1, "size": 9}),
        {"tune": "ssim", "model": "photo"},
    ],
)
def test_options_that_exclude_one_another(both: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=" and ".join(sorted(both, key=list(both).index))):
        EncodeOptions(**both)


def test_numbers_of_numpy_are_numbers() -> None:
    EncodeOptions(quality=np.float32(30), effort=np.int64(1))
    DecodeOptions(region=(np.int32(0), 0, 8, 8))


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (codec.compress, EncodeOptions),
        (codec.decompress, DecodeOptions),
        (codec.sample, SampleOptions),
    ],
)
def test_public_functions_have_all_options(function: Callable[..., Any], kind: type) -> None:
    parameters = inspect.signature(function).parameters
    for field in fields(kind):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        assert parameters[field.name].default == default, field.name


def test_callbacks_that_are_not_given_do_nothing() -> None:
    assert Callbacks.given() == Callbacks(ignore, ignore, ignore)
    seen: list[str] = []
    Callbacks.given(seen.append).notes("a note")
    assert seen == ["a note"]
