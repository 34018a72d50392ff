"""The command optimize: variants of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter, print_lines, print_result, print_table

if TYPE_CHECKING:
    from t2tdeploy.bundle import Bundle
    from t2tdeploy.export.optimize import Made
    from t2tdeploy.export.tensorrt_variant import Build
    from t2tdeploy.models.model import Model
    from t2tdeploy.progress import Reporter

_OF_SHORTLISTS = ("parallel_source", "parallel_target", "shortlist_width")
_OF_TRANSLATIONS = (*_OF_SHORTLISTS, "calibration", "dev_source", "dev_target", "min_agreement", "max_bleu_loss")


@click.command()
@click.option("--bundle", "bundle_dir", type=options.directory, required=True, help="What export wrote.")
@click.option("--output", "output_dir", type=options.directory, required=True, help="Folder to write.")
@click.option("--variant", "names", multiple=True,
              help="cpu-int8, cpu-int8-shortlist, cuda-fp16 or tensorrt; may be given several times.")  # fmt: skip
@click.option("--options", "overrides", default="",
              help="Options of tensorrt: precision=float32,max_batch_size=32; see docs/tensorrt.md.")  # fmt: skip
@click.option("--default", help="The variant that serves where none is named [as it was].")
@click.option("--calibration", type=options.file, help="Source sentences for cpu-int8 [some of the train split].")
@click.option("--parallel-source", type=options.file,
              help="Source sentences to make a shortlist of [the train split].")  # fmt: skip
@click.option("--parallel-target", type=options.file, help="Their translations.")
@click.option("--shortlist-width", type=click.IntRange(1, 1000),
              help="Target tokens that each source token allows [100].")  # fmt: skip
@click.option("--dev-source", type=options.file, help="Source sentences to compare variants on [the dev split].")
@click.option("--dev-target", type=options.file, help="Their translations, for BLEU.")
@click.option(
    "--output-dir", "run_dir", type=options.directory,
    help="Run directory to take data of, and the model for tensorrt [as the bundle says].",
)  # fmt: skip
@click.option("--min-agreement", type=options.Number(0, 1), help="Share of tokens that must be as in float32 [0.9].")
@click.option("--max-bleu-loss", type=options.Number(0, 100), help="BLEU that may be lost [0.2].")
@click.option("--max-accuracy-loss", type=options.Number(0, 100),
              help="Of classes: points of accuracy that may be lost [0.5].")  # fmt: skip
@click.option("--force", is_flag=True, help="Write variants that are too far from float32 all the same.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there; it may be the one that is read.")
@options.as_json
def optimize(
    bundle_dir: Path,
    output_dir: Path,
    names: tuple[str, ...],
    default: str | None,
    force: bool,
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Add smaller and faster variants to a bundle: in 8 bits for CPUs, in 16 bits for GPUs, for TensorRT.

    Each variant translates real sentences beside the float32 graph. One that differs too much is refused, and nothing
    is written; what was measured stands in the bundle's manifest.

    A variant with a shortlist chooses from tokens that, in parallel text, stand for those of the source: quicker,
    most of all for one sentence at a time.

    The search of tensorrt is exported anew from the run, with the bundle's decoding options fixed in it. Machines that
    serve it build their engines; where TensorRT is installed, one is built here to see whether it can be.

    Of a model that classifies or regresses there are cpu-int8 and tensorrt. cpu-int8 is calibrated on examples of the
    train split of its data; both are compared with float32 by accuracy, or squared error, on the dev split.

    \b
    Examples:
      t2tdeploy optimize --bundle bundles/dates --output bundles/dates8 --variant cpu-int8 --default cpu-int8
      t2tdeploy optimize --bundle bundles/dates --output bundles/dates --overwrite --variant cpu-int8 \\
          --calibration some.en --dev-source dev.en --dev-target dev.de
      t2tdeploy optimize --bundle bundles/ende --output bundles/ende-short --variant cpu-int8-shortlist \\
          --parallel-source train.en --parallel-target train.de
      t2tdeploy optimize --bundle bundles/dates --output bundles/dates-gpu --variant tensorrt --output-dir runs/dates
    """
    from t2tdeploy.bundle import load_bundle
    from t2tdeploy.export.optimize import check_request, write_variants
    from t2tdeploy.export.tensorrt_variant import TensorRTOptions

    _require_work(names, default)
    asked["tensorrt"] = TensorRTOptions().override(asked["overrides"])
    _require_pair(asked, "parallel", alone=False)
    _require_pair(asked, "dev", alone=True)
    names = tuple(dict.fromkeys(names))
    bundle = load_bundle(bundle_dir)
    _require_of_task(bundle.manifest.task)
    check_request(bundle, output_dir, names, default=default, overwrite=overwrite)
    made: dict[str, Made] = {}
    if names:
        make = _make if bundle.manifest.task == "translate" else _make_of_classifier
        made = make(bundle, names, asked, make_reporter(as_json))
        (_print if bundle.manifest.task == "translate" else _print_of_classifier)(made, force, as_json)
    written = write_variants(bundle, output_dir, made, default=default, force=force, overwrite=overwrite)
    _tell_of_text_graph(bundle, written, made, make_reporter(as_json))
    _print_written(written, as_json)


def _print_written(bundle: Bundle, as_json: bool) -> None:
    print_result(
        {
            "bundle": str(bundle.directory),
            "version": bundle.version,
            "variants": ", ".join(bundle.manifest.variants),
            "default_variant": bundle.manifest.default_variant,
        },
        as_json=as_json,
    )


def _tell_of_text_graph(bundle: Bundle, written: Bundle, made: Mapping[str, Made], reporter: Reporter) -> None:
    """It is made around the default variant, and stays as it is when that becomes another one."""
    text, former, new = bundle.manifest.text_graph, bundle.manifest.default_variant, written.manifest.default_variant
    if text and (new != former or new in made):
        reporter.message(
            f"{text.file} still has {former} as it was; to make it of {new}: "
            f"t2tdeploy export --from-bundle {written.directory} --text-graph"
        )


def _make(bundle: Bundle, names: tuple[str, ...], asked: Mapping[str, Any], reporter: Reporter) -> dict[str, Made]:
    """
    Args:
        asked: the command's parameters, and `tensorrt`.
    """
    from t2tdeploy.cli.corpora import corpora, parallel_text
    from t2tdeploy.errors import UserError
    from t2tdeploy.export.agreement import Gate
    from t2tdeploy.export.lexicon import WIDTH
    from t2tdeploy.export.optimize import Parallel, make_variants
    from t2tdeploy.export.variants import get_recipe

    run = asked["run_dir"]
    trained = _trained(bundle, run) if "tensorrt" in names else None
    known, dev = corpora(
        bundle,
        calibration=asked["calibration"],
        dev_source=asked["dev_source"],
        dev_target=asked["dev_target"],
        run=run,
    )
    bounds = {name: asked[name] for name in ("min_agreement", "max_bleu_loss") if asked[name] is not None}
    if "max_bleu_loss" in bounds and dev.references is None:
        raise UserError(
            f"--max-bleu-loss: {dev.origin} has no translations to measure BLEU by", help="add --dev-target"
        )
    parallel = None
    if any(get_recipe(name).aligned for name in names):
        text = parallel_text(bundle, source=asked["parallel_source"], target=asked["parallel_target"], run=run)
        parallel = None if text is None else Parallel(text, asked["shortlist_width"] or WIDTH)
    return make_variants(
        bundle,
        names,
        calibration=known,
        dev=dev,
        gate=Gate(**bounds),
        parallel=parallel,
        trained=trained,
        tensorrt=asked["tensorrt"],
        reporter=reporter,
    )


def _trained(bundle: Bundle, run_dir: Path | None) -> Model:
    """The model that the bundle was exported from."""
    from t2tdeploy.errors import InputError, UserError
    from t2tdeploy.training.run_directory import RunDirectory

    provenance, help = bundle.manifest.provenance, "name the run that the bundle was exported from: --output-dir"
    what = "tensorrt is exported from the run of the bundle"
    name = str(provenance.get("checkpoint", "best")).removeprefix("step-")
    checkpoint = str(int(name)) if name.isdecimal() else name
    if run_dir is None and "run_dir" not in provenance:
        raise InputError(f"{what}, and {bundle.directory} does not say which that is", help=help)
    try:
        return RunDirectory.open(run_dir or Path(provenance["run_dir"])).model(checkpoint)
    except UserError as error:
        if run_dir is not None:
            raise
        raise InputError(f"{what}: {error.message}", help=help) from error


def _make_of_classifier(
    bundle: Bundle, names: tuple[str, ...], asked: Mapping[str, Any], reporter: Reporter
) -> dict[str, Made]:
    from t2tdeploy.cli.corpora import labelled
    from t2tdeploy.export.class_agreement import ClassifierGate
    from t2tdeploy.export.optimize_classifier import make_classifier_variants

    known, dev = labelled(bundle, asked["run_dir"])
    loss = asked["max_accuracy_loss"]
    gate = ClassifierGate() if loss is None else ClassifierGate(max_accuracy_loss=loss / 100)
    return make_classifier_variants(
        bundle, names, calibration=known, dev=dev, gate=gate, tensorrt=asked["tensorrt"], reporter=reporter
    )


def _tell(made: Mapping[str, Made]) -> None:
    for name, one in made.items():
        make_reporter(True).event("measured", variant=name, **asdict(one.measured))


def _print_of_classifier(made: Mapping[str, Made], force: bool, as_json: bool) -> None:
    """The float32 graph in the first line, what became of it below."""
    from t2tdeploy.export.class_agreement import ClassifierMeasured

    found = {name: one.measured for name, one in made.items() if isinstance(one.measured, ClassifierMeasured)}
    if as_json:
        _tell(made)
        return
    any_made = next(iter(found.values()))
    regresses = any_made.accuracy is None
    speed = next((one.speed for one in found.values() if one.speed), None)
    rows: list[list[Any]] = [
        [
            any_made.reference, f"{any_made.reference_bytes / 1e6:.2f}", None,
            f"{any_made.reference_rmse:.5g}" if regresses else f"{any_made.reference_accuracy:.2%}",
            f"{speed.reference_examples_per_second:,.0f}" if speed else None, None, None,
        ]
    ]  # fmt: skip
    for name, one in found.items():
        rows.append([
            name, f"{one.bytes / 1e6:.2f}", None if one.identical is None else f"{one.identical:.1%}",
            f"{one.rmse:.5g}" if regresses else f"{one.accuracy:.2%}",
            f"{one.speed.examples_per_second:,.0f}" if one.speed else None,
            f"{one.speed.speedup:.2f}" if one.speed else None,
            "passes" if not one.failures else "forced" if force else "refused",
        ])  # fmt: skip
    quality = "rmse" if regresses else "accuracy"
    print_table(["variant", "MB", "identical", quality, "examples/s", "speedup", "gate"], rows)
    notes = [f"compared on {any_made.compared_on}, examples: {any_made.examples}"]
    notes += [f"{name} calibrated on {one.calibrated_on}" for name, one in found.items() if one.calibrated_on]
    if speed:
        notes.append(f"speed on {speed.cpu}, {speed.threads} threads, batches of {speed.batch_size}")
    print_lines([*notes, *_of_machines(made)])


def _print(made: Mapping[str, Made], force: bool, as_json: bool) -> None:
    """The float32 graph in the first line, what became of it below."""
    from t2tdeploy.export.agreement import Measured

    if as_json:
        _tell(made)
        return
    all_measured = {name: one.measured for name, one in made.items() if isinstance(one.measured, Measured)}
    any_made = next(iter(all_measured.values()))
    quality = next((one.quality for one in all_measured.values() if one.quality), None)
    speed = next((one.speed for one in all_measured.values() if one.speed), None)
    rows: list[list[Any]] = [
        [
            any_made.reference, f"{any_made.reference_bytes / 1e6:.1f}", None, None, None,
            f"{quality.reference_bleu:.2f}" if quality else None,
            f"{speed.reference_tokens_per_second:,.0f}" if speed else None, None, None,
        ]
    ]  # fmt: skip
    for name, found in all_measured.items():
        agreement = found.agreement
        median = agreement.score_difference_median
        rows.append([
            name, f"{found.bytes / 1e6:.1f}", f"{agreement.identical:.1%}", f"{agreement.token_agreement:.1%}",
            None if median is None else f"{median:.4f}",
            f"{found.quality.bleu:.2f}" if found.quality else None,
            f"{found.speed.tokens_per_second:,.0f}" if found.speed else None,
            f"{found.speed.speedup:.2f}" if found.speed else None,
            "passes" if not found.failures else "forced" if force else "refused",
        ])  # fmt: skip
    print_table(["variant", "MB", "identical", "tokens", "score off by", "BLEU", "tokens/s", "speedup", "gate"], rows)
    notes = [f"compared on {any_made.compared_on}, sentences: {any_made.agreement.sentences}"]
    if speed:
        notes.append(f"speed on {speed.cpu}, {speed.threads} threads, batches of {speed.batch_size}")
    print_lines([*notes, *_of_machines(made)])


def _of_machines(made: Mapping[str, Made]) -> list[str]:
    """What no machine has confirmed yet, and what came of building engines."""
    notes = []
    for name, one in made.items():
        target, build = one.form.target, one.measured.build
        if one.measured.run_on != target:
            what = "engine of TensorRT" if target == "tensorrt" else f"{target.upper()} device"
            half = "" if one.form.precision == "float32" else ", in float32 wherever it has no float16"
            notes.append(f"{name} was compared on a {one.measured.run_on.upper()}{half}: no {what} has confirmed it")
        if build is not None:
            notes.append(f"{name}: {_of_build(build)}")
    return notes


def _of_build(build: Build) -> str:
    who = f"{build.library} {build.version}, for {build.gpu or 'no GPU, because there is none here'}"
    if build.failure is None and build.bytes is not None:
        return f"an engine of {build.bytes / 1e6:.1f} MB was built in {build.seconds:.1f} s ({who})"
    if build.library is None:
        return f"no engine was built, because {build.failure} (pip install 't2tdeploy[tensorrt]')"
    return f"no engine was built ({who}): {build.failure}"


def _require_work(names: tuple[str, ...], default: str | None) -> None:
    """Refuses options that no variant which is made heeds."""
    from t2tdeploy.export.variants import RECIPES

    context = click.get_current_context()
    if not names and default is None:
        raise click.UsageError(f"nothing to do: give --variant ({', '.join(RECIPES)}) or --default", context)
    if "tensorrt" not in names:
        options.refuse(context, ["overrides"], "are those of --variant tensorrt")
    if not names:
        any_task = ("run_dir", "max_accuracy_loss", "force")
        options.refuse(context, (*_OF_TRANSLATIONS, *any_task), "is for variants that are made: give --variant")
    aligned = [name for name, recipe in RECIPES.items() if recipe.aligned]
    if not set(aligned) & set(names):
        options.refuse(context, _OF_SHORTLISTS, f"is for --variant {' and '.join(aligned)}")


def _require_of_task(task: str) -> None:
    context = click.get_current_context()
    if task != "translate":
        options.refuse(context, _OF_TRANSLATIONS, f"is for models that translate; this one has '{task}'")
    if task != "classify":
        options.refuse(context, ["max_accuracy_loss"], f"is for models that classify; this one has '{task}'")


def _require_pair(asked: Mapping[str, Any], name: str, *, alone: bool) -> None:
    """
    Args:
        alone: a source without translations has a use.
    """
    has_source, has_target = (asked[f"{name}_{side}"] is not None for side in ("source", "target"))
    given, missing = ("source", "target") if has_source else ("target", "source")
    if has_source != has_target and not (has_source and alone):
        raise click.UsageError(f"--{name}-{given} is given without --{name}-{missing}", click.get_current_context())
