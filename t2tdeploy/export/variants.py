"""The variants that a search can be turned into, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from onnx import ModelProto

from t2tdeploy.bundle import DecodeDefaults
from t2tdeploy.errors import InputError, UnknownNameError
from t2tdeploy.export.half import halved
from t2tdeploy.export.lexicon import Lexicon
from t2tdeploy.export.quantize import quantize_search
from t2tdeploy.export.shortlist import shortlisted
from t2tdeploy.export.tensorrt_variant import TensorRTOptions, require_same_weights, search_profile
from t2tdeploy.tensorrt_engines import InputsProfile

if TYPE_CHECKING:
    from t2tdeploy.models.model import Model


@dataclass(frozen=True)
class Material:
    """What variants are made with, besides the float32 graph.

    Args:
        sources: to calibrate with: ids with EOS, of real sentences.
        decode: how the bundle decodes.
        lexicon: of parallel sentences; None: there are none.
        trained: the model that the graph was exported from; None: not at hand.
        tensorrt: how the variant for TensorRT is made.
    """

    sources: Sequence[Sequence[int]]
    decode: DecodeDefaults
    lexicon: Lexicon | None = None
    trained: Model | None = None
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)


@dataclass(frozen=True)
class Form:
    """What a variant is; see `bundle.Variant`."""

    target: Literal["cpu", "cuda", "tensorrt"]
    precision: Literal["float32", "int8", "float16"]
    layout: Literal["growing", "static"] | None
    fixed: DecodeDefaults | None = None
    profile: InputsProfile | None = None


@dataclass(frozen=True)
class Recipe:
    """How a variant is made.

    Args:
        form: what it is, from what it is made with.
        make: the float32 graph, which stays as it is -> the variant's.
        calibrated: whether `make` looks at the sentences of its Material; if not, they may be none.
        aligned: whether it needs a lexicon.
    """

    form: Callable[[Material], Form]
    make: Callable[[ModelProto, Material], ModelProto]
    calibrated: bool = False
    aligned: bool = False


def _int8(model: ModelProto, material: Material) -> ModelProto:
    decode = material.decode
    return quantize_search(
        model,
        material.sources,
        beam_size=decode.beam_size,
        alpha=decode.alpha,
        extra_length=decode.extra_length,
    )


def _int8_of_a_shortlist(model: ModelProto, material: Material) -> ModelProto:
    if material.lexicon is None:
        raise ValueError("material.lexicon is None: a shortlist is made of one")
    return shortlisted(_int8(model, material), material.lexicon)


def _static(model: ModelProto, material: Material) -> ModelProto:
    """Traced again: a graph whose caches grow cannot be turned into one whose caches do not."""
    from t2tdeploy.export.static_search import export_variant  # needs torch, which the other variants do not

    if material.trained is None:
        raise InputError(
            "the search for TensorRT is exported from the trained model, which is not at hand",
            help="name the run that the bundle was exported from: --output-dir",
        )
    require_same_weights(model, material.trained)
    return export_variant(material.trained, material.decode, precision=material.tensorrt.precision)


def _static_form(material: Material) -> Form:
    options, decode = material.tensorrt, material.decode
    return Form(
        "tensorrt", options.precision, "static", fixed=decode, profile=search_profile(options, decode.max_source_length)
    )


RECIPES: dict[str, Recipe] = {
    "cpu-int8": Recipe(lambda _: Form("cpu", "int8", "growing"), _int8, calibrated=True),
    "cpu-int8-shortlist": Recipe(
        lambda _: Form("cpu", "int8", "growing"), _int8_of_a_shortlist, calibrated=True, aligned=True
    ),
    "cuda-fp16": Recipe(lambda _: Form("cuda", "float16", "growing"), lambda model, _: halved(model)),
    "tensorrt": Recipe(_static_form, _static),
}


def get_recipe(name: str) -> Recipe:
    """How the variant called `name` is made.

    Raises:
        UnknownNameError: nobody knows; the error carries all names and the nearest.
    """
    if name not in RECIPES:
        raise UnknownNameError("variant", name, RECIPES)
    return RECIPES[name]
