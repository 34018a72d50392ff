"""How each version of a model is: what is told of it, and why one is not served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2tdeploy.errors import T2TDeployError, UnreadableError
from t2tdeploy.serving.bundle_source import Fingerprint
from t2tdeploy.serving.served_model import ServedModel

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True)
class ModelEntry:
    """A version of a model and how it is.

    Args:
        reason: why it, or its newest content, is not served; "" for nothing.
        model: None unless it is READY.
    """

    name: str
    number: int
    state: State
    reason: str
    model: ServedModel | None = None


@dataclass(frozen=True)
class Broken:
    """Files that could not be loaded."""

    fingerprint: Fingerprint
    error: Exception

    @property
    def reason(self) -> str:
        """Why."""
        return self.error.message if isinstance(self.error, T2TDeployError) else str(self.error)

    @property
    def may_pass(self) -> bool:
        """Whether the same files may be loaded later: the system did not let them, or anything else, be read."""
        return isinstance(self.error, UnreadableError | OSError)
