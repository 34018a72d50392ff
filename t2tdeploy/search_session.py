"""The session of a bundle's graph that searches, which can be opened once more."""

from __future__ import annotations

from dataclasses import replace

from t2tdeploy.bundle import Bundle
from t2tdeploy.decoding import NO_CONTROLS, SearchControls
from t2tdeploy.errors import NotNumbersError
from t2tdeploy.runtime import SPIN_US, GraphSession, Interrupt, SearchResult
from t2tdeploy.search_inputs import IntArray
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

    def search(
        self,
        source_ids: IntArray,
        max_length: IntArray,
        *,
        beam_size: int,
        alpha: float,
        num_hypotheses: int,
        controls: SearchControls = NO_CONTROLS,
        min_length: IntArray | None = None,
        prefix: IntArray | None = None,
        interrupt: Interrupt | None = None,
    ) -> SearchResult:
        """As `GraphSession.search`.

        Raises:
            NotNumbersError: nothing is found for a row, even where nothing is forbidden: its scores are NaN.
        """
        result = super().search(
            source_ids,
            max_length,
            beam_size=beam_size,
            alpha=alpha,
            num_hypotheses=num_hypotheses,
            controls=controls,
            min_length=min_length,
            prefix=prefix,
            interrupt=interrupt,
        )
        if (empty := ~result.lengths.any(axis=1)).any():
            free = super().search(
                source_ids[empty],
                max_length[empty],
                beam_size=beam_size,
                alpha=alpha,
                num_hypotheses=1,
                controls=replace(NO_CONTROLS, patience=controls.patience),
                interrupt=interrupt,
            )
            if not free.lengths.any(axis=1).all():
                raise NotNumbersError
        return result
