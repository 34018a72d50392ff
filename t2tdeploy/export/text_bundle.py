"""The text graph of a bundle: built, checked against `Translator`, and written, into the bundle or as one file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from t2tdeploy.bundle import Bundle, TextGraph, write_bundle
from t2tdeploy.errors import InputError, OperationalError, ParityError
from t2tdeploy.export.external_weights import move_weights
from t2tdeploy.export.nodes import specs
from t2tdeploy.export.placement import default_search, serialized
from t2tdeploy.export.text_graph import text_graph
from t2tdeploy.files import require_writable, written_file
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.runtime import available_cpus, import_onnxruntime, not_loaded, session_options
from t2tdeploy.translator import BUNDLE_DEFAULTS, Hypothesis, TranslateOptions, Translator

TEXT_FILE = "text.onnx"
SCORE_TOLERANCE = 1e-4

PROBES = (
    "",
    " \t\u3000",
    "A house.",
    "  blanks   around and\tinside ",
    "Caf\u00e9 cafe\u0301 \ufb01 \u2460 \u212b",
    "<pad> </s> <unk> <0x41> \u2581",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f600",
    "\u200b\ufeff\x01\x7f",
    "\ue000 \ufffd \U0010ffff \u0378",
    "word " * 1500,
)
"""Strings that tokenizers like to disagree about."""


class TextSession:
    """A loaded text graph. Safe to use from several threads.

    Args:
        graph: an ONNX file, or the content of one that holds its weights.
        threads: that one run uses; None: all CPUs this process may use.

    Raises:
        CorruptFileError: onnxruntime cannot load the graph (its own words).
        UnreadableError: it, or the file of its weights, cannot be read.
        OperationalError: onnxruntime or onnxruntime-extensions is not installed.
    """

    def __init__(self, graph: Path | bytes, *, threads: int | None = None) -> None:
        onnxruntime = import_onnxruntime()
        options = session_options(threads or available_cpus())
        options.register_custom_ops_library(extensions_library())
        source = graph if isinstance(graph, bytes) else str(graph)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            path = Path(TEXT_FILE) if isinstance(graph, bytes) else graph
            raise not_loaded(path, error) from error

    def translate(self, sources: Sequence[str], options: TranslateOptions = BUNDLE_DEFAULTS) -> list[list[Hypothesis]]:
        """As `Translator.translate` does with `truncate`, in one run.

        Raises:
            OperationalError: onnxruntime failed (its own words).
        """
        given = {
            "beam_size": (options.beam_size, np.int64),
            "alpha": (options.alpha, np.float32),
            "num_hypotheses": (options.num_hypotheses, np.int64),
            "extra_length": (options.extra_length, np.int64),
        }
        feeds: dict[str, Any] = {
            name: np.array(value, kind) for name, (value, kind) in given.items() if value is not None
        }
        feeds["sources"] = np.array(sources, dtype=object)
        try:
            found = self._session.run(["texts", "scores", "lengths", "finished"], feeds)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise OperationalError(f"onnxruntime failed to run the text graph: {error}") from error
        texts, scores, lengths, finished = (values.tolist() for values in found)
        return [
            [
                Hypothesis(texts[row][rank], scores[row][rank], length, finished[row])
                for rank, length in enumerate(lengths[row])
                if length > 0
            ]
            for row in range(len(sources))
        ]


def extensions_library() -> str:
    """The file of onnxruntime-extensions' operators.

    Raises:
        OperationalError: it is not installed.
    """
    try:
        from onnxruntime_extensions import get_library_path
    except ImportError as error:
        raise OperationalError(
            f"onnxruntime_extensions cannot be imported: {error}",
            help="a text graph needs it: pip install 't2tdeploy[text]'",
        ) from error
    return str(get_library_path())


def build_text_graph(
    bundle: Bundle, *, sentences: Sequence[str] = (), reporter: Reporter | None = None
) -> onnx.ModelProto:
    """The text graph of the bundle's default variant, weights included, which translates as `Translator` does.

    Args:
        sentences: to compare on, beside `PROBES`.

    Raises:
        InputError: the bundle does not translate.
        ParityError: a translation differs.
        OperationalError: onnxruntime-extensions is not installed, or the graph is too large for one file.
    """
    reporter = reporter or SilentReporter()
    decode = bundle.decode
    extensions_library()
    reporter.message("building the text graph")
    graph = text_graph(
        default_search(bundle),
        source=bundle.tokenizer("inputs"),
        target=bundle.tokenizer("targets"),
        decode=decode,
    )
    verify_text(TextSession(serialized(graph)), Translator(bundle), [*PROBES, *sentences])
    return graph


def verify_text(
    session: TextSession,
    translator: Translator,
    sentences: Sequence[str],
    options: TranslateOptions = BUNDLE_DEFAULTS,
) -> None:
    """Compares what a text graph makes of `sentences` alone with what `translator` makes of them.

    Args:
        options: the graph's own defaults.

    Raises:
        ParityError: a translation differs in text, tokens, score or whether it ended; the message shows the first.
    """
    expected = translator.translate(sentences, replace(options, truncate=True))
    differing = [
        (sentence, ours, theirs)
        for sentence, ours, theirs in zip(sentences, session.translate(sentences), expected, strict=True)
        if not _same(ours, theirs)
    ]
    if differing:
        sentence, ours, theirs = differing[0]
        raise ParityError(
            f"the text graph and Translator differ on {len(differing)} of {len(sentences)} sentences\n"
            f"  {sentence[:80]!r}: graph {ours}, Translator {theirs}",
            help="leave the text graph out, and report the vocabulary's kind and normalization",
        )


def _same(ours: Sequence[Hypothesis], theirs: Sequence[Hypothesis]) -> bool:
    return len(ours) == len(theirs) and all(
        (one.text, one.tokens, one.finished) == (other.text.replace("\0", ""), other.tokens, other.finished)
        and math.isclose(one.score, other.score, abs_tol=SCORE_TOLERANCE)
        for one, other in zip(ours, theirs, strict=True)
    )


def add_text_graph(
    bundle: Bundle,
    directory: Path,
    *,
    overwrite: bool = False,
    sentences: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Bundle:
    """Writes the bundle to `directory` with a text graph.

    The weights move to a file that both graphs read.

    Args:
        directory: the bundle's own, with `overwrite`, to replace it.

    Raises:
        InputError: `directory` is taken.
        ParityError, OperationalError: as `build_text_graph`.
    """
    text = build_text_graph(bundle, sentences=sentences, reporter=reporter)
    search = default_search(bundle)
    folder = bundle.path().parent.relative_to(bundle.directory)
    record = TextGraph(file=str(folder / TEXT_FILE), inputs=specs(text.graph.input), outputs=specs(text.graph.output))
    files: dict[str, bytes | Path] = {name: bundle.directory / name for name in bundle.files()}
    weights = f"{bundle.path().stem}.weights"  # each variant its own: another's graph may read one already
    files[str(folder / weights)] = move_weights([search, text], weights)
    files[str(folder / bundle.path().name)] = serialized(search)
    files[record.file] = serialized(text)
    shared = bundle.variant().model_copy(update={"weights": str(folder / weights)})
    variants = {**bundle.manifest.variants, bundle.manifest.default_variant: shared}
    manifest = bundle.manifest.model_copy(update={"text_graph": record, "variants": variants})
    return write_bundle(directory, manifest, files, overwrite=overwrite)


def write_text_graph(
    bundle: Bundle,
    path: Path,
    *,
    overwrite: bool = False,
    sentences: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> None:
    """Writes the text graph as one file that needs no other.

    Raises:
        InputError: there is something at `path`.
        ParityError, OperationalError: as `build_text_graph`.
    """
    require_free_file(path, overwrite)
    graph = build_text_graph(bundle, sentences=sentences, reporter=reporter)
    with written_file(path) as place:
        place.write_bytes(serialized(graph))


def require_free_file(path: Path, overwrite: bool) -> None:
    """Checks that a file may be written to `path`, before the work that leads to it.

    Raises:
        InputError: it is a folder, or taken, or its place is none that may be written to.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", path=path, help="name the file to write, e.g. translate.onnx")
    if path.exists() and not overwrite:
        raise InputError(f"{path} already exists", path=path, help="choose another file, or pass --overwrite")
    require_writable(path)
