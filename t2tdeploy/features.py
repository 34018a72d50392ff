"""What flows through a model: feature declarations, reserved ids and the names of axes.

Axis names, in comments, docstrings and ONNX dynamic axes alike:

    batch           examples of a batch
    source_length   tokens of the longest source, end-of-sentence included
    target_length   tokens of the longest target, end-of-sentence included
    history         all that a search has decoded of a sentence: target_length * beam, by position, then by beam
    beam            hypotheses kept per example during search
    hypotheses      hypotheses returned per example
    heads           attention heads
    head_dim        width of one head
    hidden          width of the residual stream
    vocab           entries of a vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2


class Modality(StrEnum):
    """How a feature enters a model (bottom) and leaves it (top, loss), and what it is in a batch."""

    SYMBOL = "symbol"  # ids of a vocabulary, EOS at the end, PAD behind: int64 [batch, length]
    CLASS_LABEL = "class_label"  # one of several classes: int64 [batch]
    MULTI_LABEL = "multi_label"  # any number of classes: float32 [batch, classes], 0 or 1
    REAL = "real"  # numbers: float32 [batch, *shape]
    IMAGE = "image"  # pixels: uint8 [batch, height, width, channels]
    CATEGORY = "category"  # the id of a value of a column: int64 [batch]


LABELS = (Modality.CLASS_LABEL, Modality.MULTI_LABEL)  # those that have classes
IMAGE_CHANNELS = (1, 3)  # of an image that a bundle takes: grey, or red, green and blue


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of a problem.

    Args:
        name: key in examples and batches ("inputs", "targets").
        modality: how models treat it.
        vocabulary: SYMBOL: name of the vocabulary its ids are of; features that share one share an embedding.
        vocab_size: SYMBOL, CATEGORY: how many ids there are.
        parts: SYMBOL: texts that an example consists of; their ids follow each other, with EOS behind each
            (a pair of sentences: Tensor2Tensor's TextConcat2Class).
        classes: CLASS_LABEL, MULTI_LABEL: the name of every class, by id.
        shape: REAL, IMAGE: of one example; () for a single number, (height, width, channels) for an image.
        column: how the feature is made of raw values, see `columns.fitted`; None: it comes as it is. A target stays as
            it is: its column says how it is spread.
    """

    name: str
    modality: Modality
    vocabulary: str = ""
    vocab_size: int = 0
    classes: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    parts: int = 1
    column: dict[str, Any] | None = field(default=None, hash=False)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` made, after a way through JSON; fields that it lacks have their defaults."""
        lists = {name: tuple(record[name]) for name in ("classes", "shape") if name in record}
        return cls(**{**record, **lists, "modality": Modality(record["modality"])})


def graph_outputs(target: FeatureSpec) -> tuple[str, ...]:
    """What the exported graph of a model without a search calls its outputs."""
    return ("values",) if target.modality is Modality.REAL else ("logits", "probabilities")
