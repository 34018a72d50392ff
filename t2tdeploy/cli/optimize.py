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
    from t2tdeploy.export.optimize import Made


@click.command()
@click.option("--bundle", "bundle_dir", type=options.directory, required=True, help="What export wrote.")
@click.option("--output", "output_dir", type=options.directory, required=True, help="Folder to write.")
@click.option("--variant", "names", multiple=True, help="cpu-int8 or cuda-fp16; may be given several times.")
@click.option("--default", help="The variant that serves where none is named [as it was].")
@click.option("--calibration", type=options.file, help="Source sentences for cpu-int8 [some of the train split].")
@click.option("--dev-source", type=options.file, help="Source sentences to compare variants on [the dev split].")
@click.option("--dev-target", type=options.file, help="Their translations, for BLEU.")
@click.option(
    "--output-dir", "run_dir", type=options.directory, help="Run directory to take data of [as the bundle says]."
)
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Share of tokens that must be as in float32 [0.9].")
@click.option("--max-bleu-loss", type=click.FloatRange(0, 100), help="BLEU that may be lost [0.2].")
@click.option("--force", is_flag=True, help="Write variants that are too far from float32 all the same.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there; it may be the one that is read.")
@options.as_json
def optimize(
    bundle_dir: Path,
    output_dir: Path,
    names: tuple[str, ...],
    default: str | None,
    calibration: Path | None,
    dev_source: Path | None,
    dev_target: Path | None,
    run_dir: Path | None,
    min_agreement: float | None,
    max_bleu_loss: float | None,
    force: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Add smaller and faster variants to a bundle: in 8 bits for CPUs, in 16 bits for GPUs.

    Each variant translates real sentences beside the float32 graph. One that differs too much is refused, and nothing
    is written; what was measured stands in the bundle's manifest.

    \b
    Examples:
      t2tdeploy optimize --bundle bundles/dates --output bundles/dates8 --variant cpu-int8 --default cpu-int8
      t2tdeploy optimize --bundle bundles/dates --output bundles/dates --overwrite --variant cpu-int8 \\
          --calibration some.en --dev-source dev.en --dev-target dev.de
    """
    from t2tdeploy.bundle import load_bundle
    from t2tdeploy.cli.corpora import corpora
    from t2tdeploy.export.agreement import Gate
    from t2tdeploy.export.optimize import check_request, make_variants, write_variants

    _require_work(names, default, dev_source, dev_target)
    names = tuple(dict.fromkeys(names))
    bundle = load_bundle(bundle_dir)
    check_request(bundle, output_dir, names, default=default, overwrite=overwrite)
    made: dict[str, Made] = {}
    if names:
        known, dev = corpora(bundle, calibration=calibration, dev_source=dev_source, dev_target=dev_target, run=run_dir)
        asked = {"min_agreement": min_agreement, "max_bleu_loss": max_bleu_loss}
        gate = Gate(**{name: value for name, value in asked.items() if value is not None})
        reporter = make_reporter(as_json)
        made = make_variants(bundle, names, calibration=known, dev=dev, gate=gate, reporter=reporter)
        if as_json:
            for name, one in made.items():
                reporter.event("measured", variant=name, **asdict(one.measured))
        else:
            _print(made, force)
    written = write_variants(bundle, output_dir, made, default=default, force=force, overwrite=overwrite)
    print_result(
        {
            "bundle": str(written.directory),
            "version": written.version,
            "variants": ", ".join(written.manifest.variants),
            "default_variant": written.manifest.default_variant,
        },
        as_json=as_json,
    )


def _print(made: Mapping[str, Made], force: bool) -> None:
    """The float32 graph in the first line, what became of it below."""
    any_made = next(iter(made.values())).measured
    quality = next((one.measured.quality for one in made.values() if one.measured.quality), None)
    speed = next((one.measured.speed for one in made.values() if one.measured.speed), None)
    rows: list[list[Any]] = [
        [
            any_made.reference, f"{any_made.reference_bytes / 1e6:.1f}", None, None, None,
            f"{quality.reference_bleu:.2f}" if quality else None,
            f"{speed.reference_tokens_per_second:,.0f}" if speed else None, None, None,
        ]
    ]  # fmt: skip
    for name, one in made.items():
        found, agreement = one.measured, one.measured.agreement
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
    for name, one in made.items():
        if one.measured.run_on != one.recipe.target:
            notes.append(
                f"{name} was compared on a {one.measured.run_on.upper()}, in float32 wherever it has no float16: "
                f"no {one.recipe.target.upper()} device has confirmed it"
            )
    print_lines(notes)


def _require_work(
    names: tuple[str, ...], default: str | None, dev_source: Path | None, dev_target: Path | None
) -> None:
    from t2tdeploy.export.variants import RECIPES

    context = click.get_current_context()
    if not names and default is None:
        raise click.UsageError(f"nothing to do: give --variant ({', '.join(RECIPES)}) or --default", context)
    if dev_target is not None and dev_source is None:
        raise click.UsageError("--dev-target is given without --dev-source", context)
