"""What a bundle says of itself: the schema of manifest.json.

A change that an older reader would misunderstand raises FORMAT_VERSION; older readers then refuse the bundle and say
why. Newer ones read every older version.

    1   a float32 graph for CPUs
    2   variants in other precisions and for other machines, with what was measured of each
    3   early stopping among the decoding defaults
    4   models that classify or regress: what their examples are, and their classes
    5   variants for TensorRT: what their graphs fix, and the sizes that their engines take
    6   categories of which truth values and whole numbers are read alike, however they are written
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from t2tdeploy.decoding import EARLY_STOPPING, NO_CONTROLS, Alpha, BeamSize, ExtraLength, SearchControls
from t2tdeploy.features import IMAGE_CHANNELS

FORMAT_VERSION = 6

Task = Literal["translate", "classify", "regress"]


def inside(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: it leads out of the bundle.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError("a file of a bundle is named by a path inside it")
    return name


FileName = Annotated[str, AfterValidator(inside)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TensorSpec(_Record):
    """One input or output of the graph.

    Args:
        dtype: numpy's name ("int64", "float32", "bool"), or "string" for text.
        axes: a name (see features.py) for an axis of any size, a number for a fixed one; () for a scalar.
    """

    name: str
    dtype: str
    axes: tuple[str | int, ...]


class DecodeDefaults(_Record):
    """How a request that says nothing is decoded, and the longest source the model takes.

    Args:
        alpha: length penalty ((5 + n) / 6)^alpha.
        extra_length: tokens that a target may be longer than its source.
        max_source_length: tokens of the longest source, EOS included.
        early_stopping: see `TranslateOptions`.
    """

    beam_size: BeamSize
    alpha: Alpha
    extra_length: ExtraLength
    max_source_length: int = Field(ge=2)
    early_stopping: bool = False

    @property
    def controls(self) -> SearchControls:
        """What the search is asked beyond its beam."""
        return EARLY_STOPPING if self.early_stopping else NO_CONTROLS


def _in_order(sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    smallest, usual, largest = sizes
    if not 1 <= smallest <= usual <= largest:
        raise ValueError(f"{smallest}, {usual}, {largest}: an axis needs 1 ≤ smallest ≤ usual ≤ largest")
    return sizes


Sizes = Annotated[tuple[int, int, int], AfterValidator(_in_order)]
"""Of an axis: the smallest, the one that an engine is tuned for, the largest."""


class Variant(_Record):
    """One form of the graph, made for one kind of machine.

    Args:
        layout: `growing`: the decoder's caches grow by one position per step; `static`: they have room for all steps
            from the start; None: there is no decoder.
        weights: file that holds the graph's weights; None: the graph holds them.
        fixed: of a static search: how it decodes, whatever a request asks; one hypothesis each.
        profile: of a variant for TensorRT: input -> its axes, those that do not change as their size.
        measured: how it compares with the float32 variant, see `export.agreement.Measured`; None: it is that variant.
    """

    file: FileName
    target: Literal["cpu", "cuda", "tensorrt"]
    precision: Literal["float32", "int8", "float16"]
    layout: Literal["growing", "static"] | None = None
    weights: FileName | None = None
    fixed: DecodeDefaults | None = None
    profile: dict[str, tuple[Sizes | int, ...]] | None = None
    measured: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.layout == "static") != (self.fixed is not None):
            raise ValueError("`fixed` is there if the layout is static, and only then")
        if (self.target == "tensorrt") != (self.profile is not None):
            raise ValueError("`profile` is there if the target is tensorrt, and only then")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Its graph, and its weights if they lie apart."""
        return (self.file, self.weights) if self.weights else (self.file,)


class TextGraph(_Record):
    """The graph with tokenizers inside (export/text_graph.py), around the variant that was the default one then.

    Args:
        inputs, outputs: its signature; all inputs but the first have a default.
    """

    file: FileName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class FeatureInput(_Record):
    """What a client sends as one feature of an example.

    Args:
        kind: `text`; `image`: pixels, or an encoded file; `tensor`: an array of one shape; `number`; `category`: one of
            several values.
        graph_input: of the graph, that it goes to.
        dtype: of that input, numpy's name; "string": categories as they are written.
        shape: of one example: a tensor's, or (height, width, channels), to which images are resized.
        max_length: text: tokens of the longest, EOS included; of all its parts together.
        parts: text: how many it consists of (a pair of sentences: 2); their ids follow each other, EOS behind each.
        size: categories as ids: how many there are.
        may_be_missing: whether it may be left out; the graph gets NaN, or the empty string, and knows what to do.
        canonical: categories as strings: whether True and 2.0 are read as true and 2, see `columns.values.as_category`.
    """

    kind: Literal["text", "image", "tensor", "number", "category"]
    graph_input: str
    dtype: str
    shape: tuple[int, ...] = ()
    max_length: int | None = Field(None, ge=2)
    parts: int = Field(1, ge=1)
    size: int | None = Field(None, ge=1)
    may_be_missing: bool = False
    canonical: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "text" and self.max_length is None:
            raise ValueError("a text has a max_length")
        if self.kind == "image" and (len(self.shape) != 3 or self.shape[2] not in IMAGE_CHANNELS):
            raise ValueError("the shape of an image is (height, width, 1 or 3)")
        if self.kind == "category" and self.dtype != "string" and self.size is None:
            raise ValueError("categories are strings, or ids of which the number is known")
        return self


class Manifest(_Record):
    """What a bundle says of itself.

    Args:
        name: what requests call the model.
        inputs, outputs: the signature of every variant's graph, but of a search whose options are fixed: the inputs of
            that are in the variant's `profile`.
        tokenizers: feature ("inputs", "targets") -> vocabulary file.
        decode: how a model that translates is asked; None for other tasks.
        features: of other tasks, by name: what an example is.
        classes: the name of every class, by id.
        multi_label: an example has any number of classes, each with a probability of its own, instead of one of them.
        temperature: that the graph divides logits by before they become probabilities (Guo et al. 2017).
        text_graph: strings in, strings out; None: there is none.
        checksums: file -> SHA-256; `write_bundle` fills it in.
        metrics: measured quality, e.g. {"bleu": 34.2}.
        provenance: where the weights come from: revision, hparams, data hash, package versions.
    """

    format_version: int = FORMAT_VERSION
    task: Task = "translate"
    name: str = Field(min_length=1)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tokenizers: dict[str, FileName] = Field(default_factory=dict)
    decode: DecodeDefaults | None = None
    features: dict[str, FeatureInput] = Field(default_factory=dict)
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    temperature: float = Field(1.0, gt=0)
    variants: dict[str, Variant]
    default_variant: str
    text_graph: TextGraph | None = None
    checksums: dict[FileName, str] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_variant not in self.variants:
            raise ValueError(f"default_variant '{self.default_variant}' is not among the variants")
        if (self.task == "translate") != (self.decode is not None):
            raise ValueError("`decode` is there if the task is to translate, and only then")
        if (self.task == "translate") == bool(self.features):
            raise ValueError("`features` are there unless the task is to translate")
        if (self.task == "classify") != bool(self.classes):
            raise ValueError("`classes` are there if the task is to classify, and only then")
        for name, feature in self.features.items():
            if feature.kind == "text" and name not in self.tokenizers:
                raise ValueError(f"the text '{name}' has no tokenizer")
        return self

    def files(self) -> set[str]:
        """The files that the bundle cannot do without."""
        text = {self.text_graph.file} if self.text_graph else set()
        graphs = {file for variant in self.variants.values() for file in variant.files}
        return {*self.tokenizers.values(), *graphs, *text}
