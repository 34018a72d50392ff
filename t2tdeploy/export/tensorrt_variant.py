"""The variant of a bundle for TensorRT: how it is asked for, the sizes that its engines take, and a build of one.

The variant is a graph. An engine belongs to one GPU and one version of TensorRT, so each machine that serves the
variant builds its own. One is built here as well, to know that it can be.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from onnx import ModelProto, numpy_helper
from pydantic import Field, model_validator

from t2tdeploy.errors import InputError, OperationalError, T2TDeployError
from t2tdeploy.export.tensorrt import build_engine
from t2tdeploy.settings import Settings
from t2tdeploy.tensorrt_engines import InputsProfile, Profile, Span, engines_directory, this_platform

if TYPE_CHECKING:
    from t2tdeploy.models.model import Model

USUAL_LENGTH = 32
"""Tokens, unless told otherwise; sentences are mostly shorter."""


class TensorRTOptions(Settings):
    """How the variant `tensorrt` is made: `t2tdeploy optimize --options`."""

    precision: Literal["float16", "float32"] = Field(
        "float16", description="of weights and products; scores are float32 in both"
    )
    usual_batch_size: int = Field(16, ge=1, description="sentences of the batches that engines are tuned for")
    max_batch_size: int = Field(64, ge=1, description="sentences of the largest batch; larger ones run in parts")
    usual_length: int | None = Field(
        None, ge=1, description=f"tokens of the sources that engines are tuned for; none: {USUAL_LENGTH}"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.usual_batch_size > self.max_batch_size:
            raise ValueError(
                f"usual_batch_size = {self.usual_batch_size} is more than max_batch_size = {self.max_batch_size}"
            )
        return self

    @property
    def batch(self) -> Span:
        """Sentences, or examples."""
        return Span(1, self.usual_batch_size, self.max_batch_size)

    def length(self, longest: int) -> Span:
        """Tokens of texts that have at most `longest`."""
        return Span(1, min(self.usual_length or USUAL_LENGTH, longest), longest)


def search_profile(options: TensorRTOptions, longest: int) -> InputsProfile:
    """Sizes that engines of a search take: all that the bundle does."""
    return Profile(options.batch, options.length(longest)).inputs_profile()


@dataclass(frozen=True)
class Build:
    """Whether TensorRT parsed the graph and built an engine, on the machine that made the variant.

    Args:
        library, version: of TensorRT; None: none is installed.
        gpu: that it was built for; None: there was none.
        seconds: it took.
        bytes: of the engine, which is not part of the bundle.
        failure: why there is no engine.
        refused: TensorRT was there and did not build it.
    """

    library: str | None = None
    version: str | None = None
    gpu: str | None = None
    seconds: float | None = None
    bytes: int | None = None
    failure: str | None = None
    refused: bool = False


def try_build(graph: bytes, name: str, profile: InputsProfile) -> Build:
    """Builds an engine of the variant `name`, if TensorRT is here and can do so.

    With a GPU it is kept in `tensorrt_engines.engines_directory`, where the next build of the same graph finds it.
    """
    try:
        platform = this_platform()
    except OperationalError as error:
        return Build(failure=error.message)
    here = Build(platform.library, platform.version, platform.gpu)
    if platform.gpu is None and platform.library == "tensorrt":
        return replace(here, failure="there is no GPU here, without which only tensorrt-rtx builds")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{name}.onnx"
        path.write_bytes(graph)
        begun = time.monotonic()
        try:
            engine = build_engine(path, engines_directory() if platform.gpu else Path(temporary), profile)
        except T2TDeployError as error:
            return replace(here, failure=error.message, refused=True)
        seconds = round(time.monotonic() - begun, 1)
        return replace(here, seconds=seconds, bytes=engine.path.stat().st_size)


def require_same_weights(graph: ModelProto, model: Model) -> None:
    """Checks that `graph` was exported from `model`, by the parameters that are in both as they are.

    Raises:
        InputError: they differ.
    """
    parameters = model.state_dict()
    for tensor in graph.graph.initializer:
        _, is_parameter, name = tensor.name.partition("owner.")
        if not is_parameter or name not in parameters:
            continue
        if not np.array_equal(numpy_helper.to_array(tensor), parameters[name].numpy()):
            raise InputError(
                f"the run is not the one that the bundle was exported from, or has been trained on: its {name} is "
                "another one",
                help="name the run of the bundle with --output-dir, or export the bundle again",
            )


def named_axes(lengths: Mapping[str, int], options: TensorRTOptions) -> dict[str, Span]:
    """Axis -> its sizes, of a graph without a search.

    Args:
        lengths: axis -> tokens of the longest text.
    """
    return {"batch": options.batch, **{axis: options.length(longest) for axis, longest in lengths.items()}}
