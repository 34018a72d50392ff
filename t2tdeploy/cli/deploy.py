"""The command that serves bundles."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter


@click.command()
@click.option("--bundle", "bundle_dir", type=options.directory, required=True, help="What export wrote.")
@click.option("--host", help="Address to listen on [127.0.0.1]; 0.0.0.0 for every interface.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on [50051]; 0 takes a free one.")
@click.option("--variant", help="Form of the graph that runs [the bundle's default].")
@click.option("--workers", type=click.IntRange(1), help="Batches that run at once [1].")
@click.option("--threads", type=click.IntRange(1), help="Threads of the model [the CPUs available].")
@click.option(
    "--options", "overrides", default="", help="Further server options: max_batch_size=32,max_queue_delay_ms=5."
)
@options.as_json
def serve(bundle_dir: Path, overrides: str, as_json: bool, **given: Any) -> None:
    """Serve a bundle over gRPC until SIGTERM or Ctrl-C; accepted requests are finished first.

    \b
    Example:
      t2tdeploy serve --bundle bundles/dates --port 50051
    """
    from t2tdeploy.serving.options import ServerOptions
    from t2tdeploy.serving.server import serve as run_server

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    chosen = ServerOptions.create({name: value for name, value in given.items() if value is not None})
    run_server(bundle_dir, chosen.override(overrides), make_reporter(as_json))
