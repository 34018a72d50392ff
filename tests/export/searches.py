"""What tests of searches ask, and how they read the answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import strategies as st

from t2tdeploy.decoding import NO_CONTROLS, SearchControls
from t2tdeploy.models.oracle import NextLogProbs
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.runtime import GraphSession, SearchResult
from tests.export.graphs import TINY_VOCAB as VOCAB
from tests.models.tiny import padded


def attention_of(model: Transformer, source: Sequence[int]) -> NextLogProbs:
    """The model's attention as the oracle asks it: by the full forward, no cache."""

    @torch.inference_mode()
    def looks(prefixes: list[list[int]]) -> list[list[float]]:
        rows = []
        for prefix in prefixes:
            batch = {"inputs": torch.tensor([list(source)]), "targets": torch.tensor([[*prefix[1:], 0]])}
            rows.append(model.cross_attention(batch)[0, :, -1].mean(0).tolist())
        return rows

    return looks


def search(
    session: GraphSession,
    rows: list[list[int]],
    limits: Sequence[int],
    *,
    beam: int = 4,
    hypotheses: int = 1,
    alpha: float = 0.6,
    controls: SearchControls = NO_CONTROLS,
    shortest: Sequence[int] | None = None,
    prefixes: list[list[int]] | None = None,
) -> SearchResult:
    longest = max((len(prefix) for prefix in prefixes or []), default=0)
    return session.search(
        padded(rows).numpy(),
        np.array(limits),
        beam_size=beam,
        alpha=alpha,
        num_hypotheses=hypotheses,
        controls=controls,
        min_length=None if shortest is None else np.array(shortest),
        prefix=None
        if prefixes is None
        else np.array([[*prefix, *[0] * (longest - len(prefix))] for prefix in prefixes], dtype=np.int64),
    )


def found_ids(result: SearchResult, row: int) -> list[tuple[int, ...]]:
    lengths = result.lengths[row]
    return [tuple(ids[:length].tolist()) for ids, length in zip(result.target_ids[row], lengths, strict=True) if length]


controls_strategy = st.builds(
    SearchControls,
    suppressed=st.lists(st.integers(0, VOCAB - 1), max_size=3, unique=True).map(tuple),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.5, 0.8]),
    no_repeat_ngram_size=st.sampled_from([0, 0, 1, 2, 3]),
    coverage_penalty=st.sampled_from([0.0, 0.0, 0.3]),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    top_k=st.sampled_from([0, 1, 5]),
    top_p=st.sampled_from([1.0, 0.8, 0.3]),
    seed=st.integers(0, 2**63 - 1),
    patience=st.sampled_from([math.inf, math.inf, 0.3, 0.5, 1.0, 1.4]),
)
