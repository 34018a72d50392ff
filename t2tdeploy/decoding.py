"""Ranges of the decoding options: the same for hparams, bundles and requests.

The search keeps the best 2 · beam_size continuations of a step, so a beam is also at most half the target vocabulary.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX_BEAM_SIZE = 16
MAX_ALPHA = 10.0
MAX_EXTRA_LENGTH = 1000

BeamSize = Annotated[int, Field(ge=1, le=MAX_BEAM_SIZE)]
Alpha = Annotated[float, Field(ge=0, le=MAX_ALPHA)]
ExtraLength = Annotated[int, Field(ge=1, le=MAX_EXTRA_LENGTH)]
