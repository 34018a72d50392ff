"""The dynamic loss scale of float16 training (Micikevicius et al. 2018, Mixed Precision Training).

Gradients smaller than 6e-8 are zero in float16. So the loss is multiplied by a large power of two, and the gradients
are divided by it in float32. Where that makes a gradient overflow, the step is left out and the scale halved; after
many steps without it is doubled. float32 and bfloat16 have the range, and always a scale of 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

START, LARGEST, GROW_AFTER_STEPS = 2.0**16, 2.0**24, 2000  # as torch.amp.GradScaler, which has no largest


class LossScale:
    """The scale of the next step.

    Args:
        dynamic: False: it is 1, for good.

    Attributes:
        value: a power of two, at least 1.
    """

    def __init__(self, *, dynamic: bool) -> None:
        self._dynamic = dynamic
        self._good_steps = 0
        self.value = START if dynamic else 1.0

    def overflowed(self) -> bool:
        """Halves the scale after a step whose gradients were not finite; False if that cannot help."""
        if self.value <= 1.0:
            return False
        self.value, self._good_steps = self.value / 2, 0
        return True

    def succeeded(self) -> None:
        """Counts a step whose gradients were finite."""
        self._good_steps += 1
        if self._dynamic and self._good_steps >= GROW_AFTER_STEPS:
            self.value, self._good_steps = min(self.value * 2, LARGEST), 0

    def state(self) -> dict[str, Tensor]:
        """All of it by name; nothing if it is not dynamic."""
        if not self._dynamic:
            return {}
        return {"value": torch.tensor(self.value), "good_steps": torch.tensor(self._good_steps)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave; nothing, of a run with another precision, leaves it as it is."""
        if self._dynamic and state:
            self.value, self._good_steps = float(state["value"]), int(state["good_steps"])
