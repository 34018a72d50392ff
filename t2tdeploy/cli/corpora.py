"""Where optimize and benchmark take sentences from: files, a run's data, or the data that a bundle was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from t2tdeploy.cli.lines import name_of, read_lines
from t2tdeploy.errors import InputError, UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from t2tdeploy.bundle import Bundle
    from t2tdeploy.export.optimize import Corpus
    from t2tdeploy.export.optimize_classifier import Labelled
    from t2tdeploy.problems.dataset import ProblemData

CALIBRATION = 128
"""Sentences of the data to calibrate with."""
MOST = 2000
"""Sentences of one purpose: enough for ranges and for BLEU, and some minutes of a CPU."""

MOST_PAIRS = 100_000
"""Pairs of sentences that a lexicon is counted in: a minute of a CPU."""


def read_sentences(path: Path) -> list[str]:
    """The lines of a file that are not blank; `-` is standard input.

    Raises:
        InputError: there is none, or see `read_lines`.
    """
    lines = [line for line in read_lines(path) if line.strip()]
    if not lines:
        raise InputError(f"{name_of(path)} holds no sentence", path=path)
    return lines


def data_of(bundle: Bundle, run: Path | None = None) -> ProblemData:
    """The data of a run directory, or else those that `bundle` says it was trained on.

    Raises:
        UserError: they are not there any more, or the bundle does not say.
    """
    from t2tdeploy.problems.dataset import open_problem

    if run is not None:
        from t2tdeploy.training.run_directory import RunDirectory

        record = RunDirectory.open(run).record
        return open_problem(record.problem, Path(record.data_dir))
    provenance = bundle.manifest.provenance
    if "problem" not in provenance or "data_dir" not in provenance:
        raise InputError(f"{bundle.directory} does not say what it was trained on", path=bundle.directory)
    return open_problem(str(provenance["problem"]), Path(provenance["data_dir"]))


def corpora(
    bundle: Bundle,
    *,
    calibration: Path | None,
    dev_source: Path | None,
    dev_target: Path | None,
    run: Path | None,
) -> tuple[Corpus | None, Corpus]:
    """What to calibrate with (None: nothing was found) and what to compare on.

    Files win over data: the train split calibrates, the dev split compares. If all that there is is a file to calibrate
    with, every other sentence of it is kept for the comparison.

    Raises:
        InputError: there is nothing to compare on, or the two dev files have not the same number of lines.
    """
    from t2tdeploy.export.optimize import Corpus

    data, reason = None, ""
    if calibration is None or dev_source is None:
        try:
            data = data_of(bundle, run)
        except UserError as error:
            if run is not None:
                raise
            reason = error.message
    measured = None if calibration is None else Corpus(read_sentences(calibration)[:MOST], calibration.name)
    if measured is None and data is not None and "train" in data.record.splits:
        measured = _of_split(data, "train", CALIBRATION)
    if dev_source is not None:
        return measured, _pair_of_files(dev_source, dev_target, MOST)
    if data is not None and "dev" in data.record.splits:
        return measured, _of_split(data, "dev", MOST)
    if measured is None or len(measured.sources) < 2:
        raise InputError(
            f"no sentences to compare the variants on: {reason or 'the data have no dev split'}",
            help="name files with --dev-source (and --dev-target, for BLEU) and --calibration",
        )
    sources, origin = measured.sources, measured.origin
    return Corpus(sources[::2], f"{origin}, odd lines"), Corpus(sources[1::2], f"{origin}, even lines")


def parallel_text(bundle: Bundle, *, source: Path | None, target: Path | None, run: Path | None) -> Corpus | None:
    """Sentences with their translations: of two files, or else of the train split. None: there are none.

    Raises:
        InputError: the two files have not the same number of lines.
    """
    from t2tdeploy.export.optimize import Corpus

    if source is not None:
        pairs = _pair_of_files(source, target)
        spread = _spread(len(pairs.sources), MOST_PAIRS)
        return Corpus(
            [pairs.sources[index] for index in spread],
            pairs.origin,
            [(pairs.references or [])[index] for index in spread],
        )
    try:
        data = data_of(bundle, run)
    except UserError:
        if run is not None:
            raise
        return None
    return _of_split(data, "train", MOST_PAIRS) if "train" in data.record.splits else None


def labelled(bundle: Bundle, run: Path | None) -> tuple[Labelled, Labelled]:
    """Examples of train to calibrate with, and those of dev, with their labels, to compare on.

    Raises:
        InputError: the data are not there, are not those of the bundle's model, or have no such split.
    """
    from t2tdeploy.export.optimize_classifier import calibration_examples, compared_examples, recorded_features

    data = data_of(bundle, run)
    tokenizers = {name: bundle.tokenizer(name) for name in bundle.manifest.tokenizers}
    data.require_features(
        recorded_features(bundle),
        tokenizers,
        owner=bundle.directory,
        help=f"name the run it was exported from with --output-dir{_trained_from(bundle)}",
    )
    return (
        calibration_examples(data.split("train"), f"train split of {data.name}"),
        compared_examples(data.split("dev"), f"dev split of {data.name}"),
    )


def _trained_from(bundle: Bundle) -> str:
    folder = bundle.manifest.provenance.get("data_dir")
    return f"; it was trained from {folder}" if folder else ""


def _pair_of_files(source: Path, target: Path | None, most: int | None = None) -> Corpus:
    from t2tdeploy.export.optimize import Corpus

    sources = read_lines(source)
    references = None if target is None else read_lines(target)
    if references is not None and len(references) != len(sources):
        raise InputError(
            f"not the same number of lines: {source} has {len(sources)}, {target} {len(references)}", path=target,
            help="line n of one is the translation of line n of the other",
        )  # fmt: skip
    return Corpus(sources[:most], source.name, None if references is None else references[:most])


def _of_split(data: ProblemData, name: str, count: int) -> Corpus:
    """Sentences spread over a split, with their references."""
    from t2tdeploy.export.optimize import Corpus

    split = data.split(name)
    indices = _spread(len(split), count)
    origin = f"{name} split of {data.name}"
    return Corpus(split.texts("inputs", indices), origin, split.texts("targets", indices))


def _spread(size: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` of `size` indices, in order."""
    import numpy as np

    return np.unique(np.linspace(0, size - 1, min(count, size)).astype(np.int64))
