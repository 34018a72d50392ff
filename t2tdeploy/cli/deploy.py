"""The command that serves bundles."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter


@click.command()
@click.option(
    "--bundle", "bundles", type=options.directory, multiple=True, help="What export wrote; may be given several times."
)
@click.option(
    "--repository", type=options.directory, help="Folder of models and versions instead: NAME/1, NAME/2, … are bundles."
)
@click.option("--versions", help="Versions of a model that are served: latest, latest:N, all, or 1+3 [latest].")
@click.option(
    "--alias", "aliases", multiple=True, help="Another name: production=ende, or production=ende:2. Repeatable."
)
@click.option("--poll", "poll_seconds", type=click.FloatRange(0), help="Seconds between looks for new bundles [never].")
@click.option("--host", help="Address to listen on [127.0.0.1]; 0.0.0.0 for every interface.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on [50051]; 0 takes a free one.")
@click.option("--http-port", type=click.IntRange(0, 65535), help="Port that answers HTTP and JSON as well [none].")
@click.option("--variant", help="Form of the graph that runs [the bundle's default].")
@click.option("--workers", type=click.IntRange(1), help="Batches that run at once [1].")
@click.option("--threads", type=click.IntRange(1), help="Threads of the model [the CPUs available].")
@click.option(
    "--options", "overrides", default="", help="Further server options: max_batch_size=32,max_queue_delay_ms=5."
)
@options.as_json
def serve(bundles: tuple[Path, ...], repository: Path | None, overrides: str, as_json: bool, **given: Any) -> None:
    """Serve bundles over gRPC until SIGTERM or Ctrl-C; accepted requests are finished first.

    \b
    Examples:
      t2tdeploy serve --bundle bundles/dates --port 50051
      t2tdeploy serve --repository models --poll 10 --alias production=ende:2
    """
    from t2tdeploy.serving.bundle_source import BundleFolders, BundleSource, RepositoryFolder
    from t2tdeploy.serving.options import ServerOptions
    from t2tdeploy.serving.server import serve as run_server

    if bool(bundles) == (repository is not None):
        both = "both given: choose one" if bundles else "give one of them"
        raise click.UsageError(f"--bundle or --repository: {both}", ctx=click.get_current_context())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    chosen = ServerOptions.create({name: value for name, value in given.items() if value not in (None, ())})
    source: BundleSource = RepositoryFolder(repository) if repository else BundleFolders(bundles)
    run_server(source, chosen.override(overrides), make_reporter(as_json))
