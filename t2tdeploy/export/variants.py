"""The variants that a float32 search graph can be turned into, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto

from t2tdeploy.bundle import DecodeDefaults
from t2tdeploy.errors import UnknownNameError
from t2tdeploy.export.half import halved
from t2tdeploy.export.lexicon import Lexicon
from t2tdeploy.export.quantize import quantize_search
from t2tdeploy.export.shortlist import shortlisted


@dataclass(frozen=True)
class Calibration:
    """What the bundle translates.

    Args:
        sources: ids with EOS, of real sentences.
        decode: how the bundle decodes.
        lexicon: of parallel sentences; None: there are none.
    """

    sources: Sequence[Sequence[int]]
    decode: DecodeDefaults
    lexicon: Lexicon | None = None


@dataclass(frozen=True)
class Form:
    """What a variant is; see `bundle.Variant`."""

    target: Literal["cpu", "cuda"]
    precision: Literal["int8", "float16"]
    layout: Literal["growing"] | None


@dataclass(frozen=True)
class Recipe(Form):
    """How a variant is made.

    Args:
        calibrated: whether `make` looks at the sentences of its Calibration; if not, they may be none.
        make: the float32 graph, which stays as it is -> the variant's.
        aligned: whether it needs a lexicon.
    """

    calibrated: bool
    make: Callable[[ModelProto, Calibration], ModelProto]
    aligned: bool = False


def _int8(model: ModelProto, calibration: Calibration) -> ModelProto:
    decode = calibration.decode
    return quantize_search(
        model,
        calibration.sources,
        beam_size=decode.beam_size,
        alpha=decode.alpha,
        extra_length=decode.extra_length,
    )


def _int8_of_a_shortlist(model: ModelProto, calibration: Calibration) -> ModelProto:
    if calibration.lexicon is None:
        raise ValueError("calibration.lexicon is None: a shortlist is made of one")
    return shortlisted(_int8(model, calibration), calibration.lexicon)


RECIPES: dict[str, Recipe] = {
    "cpu-int8": Recipe("cpu", "int8", "growing", calibrated=True, make=_int8),
    "cpu-int8-shortlist": Recipe("cpu", "int8", "growing", calibrated=True, make=_int8_of_a_shortlist, aligned=True),
    "cuda-fp16": Recipe("cuda", "float16", "growing", calibrated=False, make=lambda model, _: halved(model)),
}


def get_recipe(name: str) -> Recipe:
    """How the variant called `name` is made.

    Raises:
        UnknownNameError: nobody knows; the error carries all names and the nearest.
    """
    if name not in RECIPES:
        raise UnknownNameError("variant", name, RECIPES)
    return RECIPES[name]
