"""What a search is asked beyond its sources, as inputs of its graph.

A search of static layout has none of them: it decodes in one way, settled when its graph was made, and whoever asks for
another is refused.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.decoding import NO_CONTROLS, SearchControls
from t2tdeploy.errors import RequestError
from t2tdeploy.features import PAD_ID
from t2tdeploy.manifest import DecodeDefaults

IntArray = npt.NDArray[np.int64]

OTHER_VARIANT = "leave it out, or ask another variant of the bundle, such as its float32 one"


def require_fixed(
    fixed: DecodeDefaults,
    beam_size: int,
    alpha: float,
    num_hypotheses: int,
    controls: SearchControls,
    extra_length: int = 1,
) -> None:
    """Checks that what is asked is what the graph does.

    Args:
        extra_length: may be less than the graph has room for, too.

    Raises:
        RequestError: naming the option, what is asked, and what the graph has.
    """
    own = fixed.controls
    asked = {
        "beam_size": (beam_size, fixed.beam_size),
        "alpha": (alpha, fixed.alpha),
        "num_hypotheses": (num_hypotheses, 1),
        "early_stopping": (_rule(controls), _rule(own)),
        "extra_length": (max(extra_length, fixed.extra_length), fixed.extra_length),
    }
    for name, (wanted, had) in asked.items():
        if wanted != had:
            raise RequestError(
                f"options.{name}",
                f"{wanted} is asked for; the search of this variant has {had}, fixed when it was made",
                help=OTHER_VARIANT,
            )
    if replace(controls, patience=own.patience) != own:
        raise RequestError("options", "the search of this variant has no controls", help=OTHER_VARIANT)


def _rule(controls: SearchControls) -> str:
    return "no early stopping" if math.isinf(controls.patience) else f"a patience of {controls.patience:g}"


def control_feeds(controls: SearchControls) -> dict[str, npt.NDArray[Any]]:
    """Inputs of the graph for what is asked; what is not asked is left at the graph's default."""
    dtypes = {"suppressed": np.int64, "no_repeat_ngram_size": np.int64, "top_k": np.int64}
    asked = {field.name: getattr(controls, field.name) for field in fields(controls) if field.name != "seed"}
    return {
        name: np.array(value, dtype=dtypes.get(name, np.float32))
        for name, value in asked.items()
        if value != getattr(NO_CONTROLS, name)
    }


def sample_chances(source_ids: IntArray, steps: int, beam: int, seed: int | None) -> npt.NDArray[np.float32]:
    """What decides samples, in [0, 1): [batch, beam, steps], for each row from the seed and its own ids.

    Neither the other rows of a batch nor the number of steps change it. Without a seed nobody can tell it.
    """
    if seed is None:
        return np.random.default_rng().random((len(source_ids), beam, steps), dtype=np.float32)
    rows = []
    for row in source_ids:
        content = np.array([seed, *row[row != PAD_ID]], dtype="<i8").tobytes()
        key = int.from_bytes(hashlib.sha256(content).digest()[:16], "little")
        rows.append(np.random.Generator(np.random.Philox(key=key)).random((steps, beam), dtype=np.float32).T)
    return np.stack(rows)
