"""From what a request asks for to the search of its sentences: defaults filled in, and refused what cannot be done."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from t2tdeploy.decoding import (
    BUNDLE_DEFAULTS,
    MAX_ALPHA,
    MAX_SUPPRESSED,
    MIN_TEMPERATURE,
    NO_CONTROLS,
    RANGES,
    LengthLimits,
    SearchControls,
    SearchKey,
    TranslateOptions,
    patience_of,
    plain_options,
    require_range,
)
from t2tdeploy.errors import RequestError
from t2tdeploy.features import PAD_ID, UNK_ID
from t2tdeploy.manifest import DecodeDefaults
from t2tdeploy.runtime import GraphSession
from t2tdeploy.search_inputs import OTHER_VARIANT, require_fixed
from t2tdeploy.sentences import require_unicode
from t2tdeploy.tokenizer import Tokenizer


class SearchKeys:
    """The options that a model takes.

    Args:
        session: its graph.
        target: its target vocabulary, of which a beam is at most half.
        max_beam_size, max_extra_length: that may be asked for; never less than the defaults.
    """

    def __init__(
        self,
        session: GraphSession,
        target: Tokenizer,
        defaults: DecodeDefaults,
        *,
        max_beam_size: int,
        max_extra_length: int,
    ) -> None:
        self._session, self._target, self._defaults = session, target, defaults
        self._widest_beam = target.vocab_size // 2
        self.max_beam_size = min(max(max_beam_size, defaults.beam_size), self._widest_beam)
        self.max_extra_length = max(max_extra_length, defaults.extra_length)

    def of(self, options: TranslateOptions) -> SearchKey:
        """`options` with the defaults filled in, checked.

        Raises:
            RequestError: naming the option that is out of range, or that the graph does not have, or has fixed.
        """
        return self._of_defaults if options is BUNDLE_DEFAULTS else self._checked(options)

    @cached_property
    def _of_defaults(self) -> SearchKey:
        return self._checked(BUNDLE_DEFAULTS)

    def _checked(self, options: TranslateOptions) -> SearchKey:
        options = plain_options(options)
        defaults = self._defaults
        num_hypotheses = 1 if options.num_hypotheses is None else options.num_hypotheses
        alpha = defaults.alpha if options.alpha is None else options.alpha
        extra_length = defaults.extra_length if options.extra_length is None else options.extra_length
        require_range("alpha", alpha, 0, MAX_ALPHA)
        require_range("num_hypotheses", num_hypotheses, 1, self.max_beam_size)
        require_range("extra_length", extra_length, 1, self.max_extra_length)
        for name, (low, high) in RANGES.items():
            if (value := getattr(options, name)) is not None:
                require_range(name, value, low, high)
        if options.min_length and options.max_length and options.min_length > options.max_length:
            raise RequestError(
                "options.min_length", f"{options.min_length} is more than max_length = {options.max_length}"
            )
        controls = self._controls(options)
        if options.alternatives and controls.temperature > 0:
            raise RequestError(
                "options.alternatives", "samples are no alternatives", help="leave it out, or the temperature"
            )
        beam_size = self._beam_size(options, num_hypotheses, sampling=controls.temperature > 0)
        lengths = LengthLimits(
            extra_length,
            options.max_length,
            options.max_ratio,
            options.min_length or 0,
            options.min_ratio or 0.0,
        )
        if lengths.min_length or lengths.min_ratio:
            self.require_graph("options.min_length", "min_length")
        for name in ("alternatives", "return_tokens", "return_attention", "replace_unknown"):
            if getattr(options, name):
                self.require_graph(f"options.{name}", "prefix" if name == "alternatives" else "token_scores")
        if self._session.fixed is not None:
            require_fixed(self._session.fixed, beam_size, float(alpha), num_hypotheses, controls, extra_length)
        return SearchKey(
            beam_size,
            float(alpha),
            num_hypotheses,
            lengths,
            controls,
            alternatives=options.alternatives,
            tokens=options.return_tokens or options.return_attention,
            attention=options.return_attention,
            replace_unknown=options.replace_unknown,
        )

    def _beam_size(self, options: TranslateOptions, num_hypotheses: int, *, sampling: bool) -> int:
        if sampling and options.beam_size not in (None, num_hypotheses):
            raise RequestError(
                "options.beam_size",
                f"{options.beam_size} with a temperature: each of {num_hypotheses} hypotheses is a sample of its own",
                help="leave beam_size out, or the temperature",
            )
        beam_size = self._defaults.beam_size if options.beam_size is None else options.beam_size
        beam_size = num_hypotheses if sampling else beam_size
        why = f": half of the target vocabulary of {self._target.vocab_size}"
        require_range(
            "beam_size", beam_size, 1, self.max_beam_size, why if self.max_beam_size == self._widest_beam else ""
        )
        if num_hypotheses > beam_size:
            raise RequestError(
                "options.num_hypotheses",
                f"{num_hypotheses} is more than beam_size = {beam_size}",
                help="raise beam_size",
            )
        return beam_size

    def _controls(self, options: TranslateOptions) -> SearchControls:
        names = ("repetition_penalty", "no_repeat_ngram_size", "coverage_penalty", "temperature", "top_k", "top_p")
        given = {name: value for name in names if (value := getattr(options, name)) is not None}
        for name in names:
            if given.get(name, default := getattr(NO_CONTROLS, name)) != default:
                self.require_graph(f"options.{name}", name)
        if 0 < given.get("temperature", 0) < MIN_TEMPERATURE:
            raise RequestError(
                "options.temperature", f"{options.temperature} is neither 0 nor at least {MIN_TEMPERATURE:g}"
            )
        if len(options.suppress) > MAX_SUPPRESSED:
            raise RequestError(
                "options.suppress", f"{len(options.suppress)} pieces, at most {MAX_SUPPRESSED} are taken"
            )
        patience = patience_of(options, default=self._defaults.early_stopping)
        if patience != NO_CONTROLS.patience and self._session.fixed is None:
            self.require_graph("options.early_stopping", "patience")
        suppressed = [UNK_ID] if options.suppress_unknown else []
        for piece in options.suppress:
            require_unicode("options.suppress", piece)
            token = self._target.id_of(piece)
            if token is None:
                raise RequestError(
                    "options.suppress",
                    f"'{piece}' is no piece of the target vocabulary",
                    help="return_tokens shows pieces; a word's first piece starts with '\u2581'",
                )
            suppressed.append(token)
        sampling = given.get("temperature", 0.0) > 0
        if suppressed:
            field = "options.suppress" if options.suppress else "options.suppress_unknown"
            self.require_graph(field, "suppressed")
        if sampling and "suppressed" in self._session.controls:
            suppressed.append(PAD_ID)  # a search never finds it worth choosing; a draw may
        controls = SearchControls(suppressed=tuple(sorted(set(suppressed))), patience=patience, **given)
        if not sampling:
            return replace(controls, temperature=0.0, top_k=0, top_p=1.0)
        return replace(controls, seed=options.seed, patience=NO_CONTROLS.patience)  # every sample has its own end

    def require_graph(self, field: str, control: str) -> None:
        """
        Raises:
            RequestError: the graph has no such control.
        """
        if control not in {*self._session.controls, *self._session.outputs}:
            if self._session.fixed is not None:
                raise RequestError(field, "the search of this variant was made without it", help=OTHER_VARIANT)
            raise RequestError(
                field, "the graph of this model cannot do it", help="export the run again with this t2tdeploy"
            )
