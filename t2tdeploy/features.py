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

from dataclasses import dataclass
from enum import StrEnum

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2


class Modality(StrEnum):
    """How a feature enters a model (bottom) and leaves it (top, loss)."""

    SYMBOL = "symbol"


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of a problem.

    Args:
        name: key in examples and batches ("inputs", "targets").
        modality: how models treat it.
        vocabulary: name of the vocabulary its ids are of; features that share one share an embedding.
        vocab_size: entries of that vocabulary.
    """

    name: str
    modality: Modality
    vocabulary: str
    vocab_size: int
