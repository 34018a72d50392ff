"""The session of a bundle's graph that searches, which can be opened once more."""

from __future__ import annotations

from t2tdeploy.bundle import Bundle
from t2tdeploy.runtime import SPIN_US, GraphSession
from t2tdeploy.tensorrt_engines import InputsProfile


class SearchSession(GraphSession):
    """The graph of a bundle's variant (None: its default)."""

    def __init__(
        self, bundle: Bundle, *, variant: str | None = None, threads: int | None = None, spin_us: int = SPIN_US
    ) -> None:
        self._bundle, self._variant, self._spin_us = bundle, variant, spin_us
        chosen = bundle.variant(variant)
        super().__init__(
            bundle.path(variant),
            threads=threads,
            spin_us=spin_us,
            target=chosen.target,
            profile=InputsProfile.read(chosen.profile),
            fixed=chosen.fixed,
        )

    @property
    def shares_threads(self) -> bool:
        """Whether there are threads that searches could share."""
        return self.threads > 1 and self._bundle.variant(self._variant).target == "cpu"

    def with_threads(self, threads: int) -> SearchSession:
        """The same graph in another session, whose runs use so many threads.

        Raises:
            CorruptFileError: the file is gone, or another one is in its place.
            UnreadableError: it cannot be read.
        """
        other = SearchSession(self._bundle, variant=self._variant, threads=threads, spin_us=self._spin_us)
        self._bundle.require_unchanged(self._variant)  # after it was read
        return other
