"""Variants of a bundle: make them, measure them against its float32 graph, and write those that are close enough."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from t2tdeploy.bundle import Bundle, Variant, require_free, write_bundle
from t2tdeploy.errors import InputError, OperationalError, QualityError, UnknownNameError
from t2tdeploy.export.agreement import (
    BATCH,
    Answer,
    Gate,
    Measured,
    Quality,
    Speed,
    answers_of,
    compare,
    rates,
    speed_of,
)
from t2tdeploy.export.class_agreement import ClassifierMeasured
from t2tdeploy.export.lexicon import WIDTH, Lexicon, lexicon_of_texts, no_pairs
from t2tdeploy.export.placement import read_search, serialized
from t2tdeploy.export.tensorrt_variant import Build, TensorRTOptions, try_build
from t2tdeploy.export.variants import Form, Material, Recipe, get_recipe
from t2tdeploy.machine import cpu_model
from t2tdeploy.problems.metrics import translation_scores
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.runtime import GraphSession, available_targets
from t2tdeploy.sentences import encode_source

if TYPE_CHECKING:
    from t2tdeploy.models.model import Model


@dataclass(frozen=True)
class Corpus:
    """Real sentences in the bundle's source language.

    Args:
        references: their translations; None: there are none.
        origin: where they come from, for the manifest.
    """

    sources: Sequence[str]
    origin: str
    references: Sequence[str] | None = None


@dataclass(frozen=True)
class Parallel:
    """What a shortlist is made of.

    Args:
        corpus: with references.
        width: target ids that each source id allows; see `lexicon.make_lexicon`.
    """

    corpus: Corpus
    width: int = WIDTH


@dataclass(frozen=True)
class Made:
    """A variant that is not written yet."""

    form: Form
    graph: bytes
    measured: Measured | ClassifierMeasured

    @property
    def recorded(self) -> Measured | ClassifierMeasured:
        """What the manifest says of it once it is written: what failed its gate was forced."""
        return replace(self.measured, forced=bool(self.measured.failures))


def check_request(bundle: Bundle, output: Path, names: Sequence[str], *, default: str | None, overwrite: bool) -> None:
    """Finds the faults that need no work to be found.

    Raises:
        UnknownNameError: a variant that nobody can make, or a default that the bundle will not have.
        InputError: `output` is taken, or the bundle has no float32 graph to begin with.
    """
    for name in names:
        get_recipe(name)
    will_have = {*bundle.manifest.variants, *names}
    if default is not None and default not in will_have:
        raise UnknownNameError("default variant", default, will_have)
    if names:
        reference_of(bundle)
    require_free(output, overwrite)


def reference_of(bundle: Bundle) -> str:
    """The name of the float32 variant for CPUs, from which others are made.

    Raises:
        InputError: there is none.
    """
    for name, variant in bundle.manifest.variants.items():
        if (variant.target, variant.precision) == ("cpu", "float32"):
            return name
    raise InputError(
        f"{bundle.directory} has no float32 variant for CPUs to make others from",
        path=bundle.directory,
        help="give the bundle that t2tdeploy export wrote",
    )


def make_variants(
    bundle: Bundle,
    names: Sequence[str],
    *,
    calibration: Corpus | None,
    dev: Corpus,
    gate: Gate,
    parallel: Parallel | None = None,
    trained: Model | None = None,
    tensorrt: TensorRTOptions | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Made]:
    """Makes the variants `names` and measures each against the bundle's float32 graph. Writes nothing.

    Args:
        calibration: what the ranges of activations are measured on; sentences that `dev` has too are left out.
        dev: what the graphs are compared on; blank sentences are left out, long ones cut.
        parallel: what a shortlist is made of.
        trained: the model that the bundle was exported from, which the variant for TensorRT needs.
        tensorrt: how that is made.

    Raises:
        UnknownNameError: there is no such variant.
        InputError: no sentence is left to compare on, or to calibrate or align where a variant needs it; the model is
            missing, or not the bundle's, or has operators that TensorRT does not have.
        OperationalError: the model's state grows with every step, which TensorRT does not allow.
    """
    reporter, recipes = reporter or SilentReporter(), {name: get_recipe(name) for name in names}
    reference, compared = reference_of(bundle), _without_blanks(dev)
    material = Material((), bundle.decode, trained=trained, tensorrt=tensorrt or TensorRTOptions())
    if any(recipe.calibrated for recipe in recipes.values()):
        material = replace(material, sources=_calibration(bundle, calibration, compared, reporter))
    if any(recipe.aligned for recipe in recipes.values()):
        material = replace(material, lexicon=_lexicon(bundle, parallel, reporter))
    drafts = _drafts(bundle.path(reference), recipes, material, reporter)
    placed = {name: place(name, one.graph, one.form, reporter) for name, one in drafts.items()}
    answers, speeds = _run(bundle, reference, drafts, placed, _encoded(bundle, compared.sources), reporter)
    made = {}
    for name, draft in drafts.items():
        agreement = compare(answers[name], answers[reference])
        quality = _quality(bundle, answers[name], answers[reference], compared.references)
        measured = Measured(
            reference=reference,
            compared_on=compared.origin,
            calibrated_on=calibration.origin if recipes[name].calibrated and calibration else None,
            aligned_on=parallel.corpus.origin if recipes[name].aligned and parallel else None,
            run_on=placed[name][1],
            agreement=agreement,
            quality=quality,
            speed=speeds.get(name),
            bytes=len(draft.graph),
            reference_bytes=bundle.size(reference),
            gate=gate,
            build=draft.build,
            failures=[*gate.failures(agreement, quality), *refusals(draft.build)],
        )
        made[name] = Made(draft.form, draft.graph, measured)
    return made


@dataclass(frozen=True)
class _Draft:
    """A variant that is not measured yet."""

    form: Form
    graph: bytes
    build: Build | None


def _drafts(
    reference: Path, recipes: Mapping[str, Recipe], material: Material, reporter: Reporter
) -> dict[str, _Draft]:
    """The variants, made from the graph `reference`."""
    model, found = read_search(reference), {}
    for name, recipe in recipes.items():
        reporter.message(f"making {name}")
        graph, form = serialized(recipe.make(model, material)), recipe.form(material)
        found[name] = _Draft(form, graph, build_of(graph, name, form, reporter))
    return found


def _run(
    bundle: Bundle,
    reference: str,
    drafts: Mapping[str, _Draft],
    placed: Mapping[str, tuple[GraphSession, str]],
    rows: Sequence[Sequence[int]],
    reporter: Reporter,
) -> tuple[dict[str, list[Answer]], dict[str, Speed]]:
    """The answers of all graphs, and the speeds of those that run where they are made for."""
    decode = bundle.decode
    sessions = {reference: GraphSession(bundle.path(reference)), **{name: one for name, (one, _) in placed.items()}}
    answers = {name: answers_of(one, rows, decode, name=name, reporter=reporter) for name, one in sessions.items()}
    at_home = [name for name, draft in drafts.items() if placed[name][1] == draft.form.target]
    timed = {name: sessions[name] for name in (reference, *at_home)}
    return answers, _speeds(timed, reference, rates(timed, rows, decode, reporter=reporter)) if at_home else {}


def build_of(graph: bytes, name: str, form: Form, reporter: Reporter) -> Build | None:
    """What came of building an engine of a variant; None: it is not for TensorRT."""
    if form.profile is None:
        return None
    reporter.message(f"building an engine of {name}")
    return try_build(graph, name, form.profile)


def refusals(build: Build | None) -> list[str]:
    """What a build adds to the failures of a gate."""
    return [build.failure] if build and build.refused and build.failure else []


def write_variants(
    bundle: Bundle,
    output: Path,
    made: Mapping[str, Made],
    *,
    default: str | None = None,
    force: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Writes `bundle` with the variants `made` to `output`, which may be the bundle itself: whole or not at all.

    Args:
        default: which variant is run where none is named; None: the same as before.
        force: write variants that failed their gate too; the manifest says so.

    Raises:
        QualityError: a variant failed its gate; nothing is written.
        InputError: `output` is taken.
        OperationalError: the disk refuses.
    """
    failed = [f"{name}: {failure}" for name, one in made.items() for failure in one.measured.failures]
    if failed and not force:
        lines = "".join(f"\n  {line}" for line in failed)
        raise QualityError(
            f"too far from float32, so nothing is written:{lines}",
            help="leave the variant out, calibrate on sentences like those that it will translate, set the gate "
            "(--min-agreement, --max-bleu-loss; --max-accuracy-loss of classes), or write it all the same (--force); "
            "an Estimator takes gate=… and force=True",
        )
    manifest = bundle.manifest
    variants = dict(manifest.variants)
    replaced = {variants[name].file for name in made if name in variants}
    files: dict[str, bytes | Path] = {file: bundle.directory / file for file in bundle.files() - replaced}
    for name, one in made.items():
        form = one.form
        variants[name] = Variant(
            file=f"{name}.onnx",
            target=form.target,
            precision=form.precision,
            layout=form.layout,
            fixed=form.fixed,
            profile=form.profile and form.profile.recorded(),
            measured=asdict(one.recorded),
        )
        files[variants[name].file] = one.graph
    changed = manifest.model_copy(update={"variants": variants, "default_variant": default or manifest.default_variant})
    return write_bundle(output, changed, files, overwrite=overwrite)


def place(name: str, graph: bytes, form: Form, reporter: Reporter) -> tuple[GraphSession, str]:
    """The variant `name` on what it is made for, where that is here, otherwise on the CPU; and on which it is."""
    target, profile = form.target, form.profile
    if target != "cpu" and target in available_targets():
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "graph.onnx"
                path.write_bytes(graph)
                return GraphSession(path, target=target, profile=profile, fixed=form.fixed), target
        except OperationalError as error:  # onnxruntime was built for GPUs, and there is none here, or no engine
            reporter.message(f"{name} is compared on the CPU: {error.message}")
    return GraphSession(graph, fixed=form.fixed), "cpu"


def _without_blanks(corpus: Corpus) -> Corpus:
    kept = [index for index, source in enumerate(corpus.sources) if source.strip()]
    if not kept:
        raise InputError(
            f"{corpus.origin} holds no sentence to compare variants on", help="name another file: --dev-source"
        )
    references = corpus.references
    return replace(
        corpus,
        sources=[corpus.sources[index] for index in kept],
        references=None if references is None else [references[index] for index in kept],
    )


def _calibration(bundle: Bundle, corpus: Corpus | None, dev: Corpus, reporter: Reporter) -> list[list[int]]:
    """The sentences of `corpus` that are not in `dev`, in ids."""
    if corpus is None:
        raise InputError(
            "there are no sentences to calibrate with: the data that the bundle was trained on are not here",
            help="name a file of source sentences, like those that will be translated: --calibration",
        )
    compared = set(dev.sources)
    sources = [source for source in corpus.sources if source.strip()]
    kept = [source for source in sources if source not in compared]
    if len(kept) < len(sources):
        reporter.message(
            f"left out of calibration, because variants are compared on them: {len(sources) - len(kept)} sentences"
        )
    if not kept:
        raise InputError(
            f"no sentence of {corpus.origin} is left to calibrate with: {dev.origin} has them all",
            help="calibrate and compare on different sentences: --calibration FILE, --dev-source FILE",
        )
    return _encoded(bundle, kept)


def _lexicon(bundle: Bundle, parallel: Parallel | None, reporter: Reporter) -> Lexicon:
    if parallel is None:
        raise no_pairs("the data that the bundle was trained on are not here")
    corpus = parallel.corpus
    return lexicon_of_texts(
        zip(corpus.sources, corpus.references or (), strict=False),
        bundle.tokenizer("inputs"),
        bundle.tokenizer("targets"),
        origin=corpus.origin,
        width=parallel.width,
        reporter=reporter,
    )


def _encoded(bundle: Bundle, texts: Sequence[str]) -> list[list[int]]:
    tokenizer, longest = bundle.tokenizer("inputs"), bundle.decode.max_source_length
    return [encode_source(tokenizer, text, field="sentence", max_length=longest, truncate=True).ids for text in texts]


def _speeds(
    sessions: Mapping[str, GraphSession], reference: str, rounds: Mapping[str, Sequence[float]]
) -> dict[str, Speed]:
    threads, cpu = sessions[reference].threads, cpu_model()
    return {
        name: speed_of(rounds[name], rounds[reference], batch_size=BATCH, threads=threads, cpu=cpu)
        for name in sessions
        if name != reference
    }


def _quality(
    bundle: Bundle, found: Sequence[Answer], expected: Sequence[Answer], references: Sequence[str] | None
) -> Quality | None:
    if references is None:
        return None
    tokenizer = bundle.tokenizer("targets")
    own, other = (
        translation_scores([tokenizer.decode(list(one.ids)) for one in answers], list(references))
        for answers in (found, expected)
    )
    return Quality(own.bleu, other.bleu, own.bleu_signature)
