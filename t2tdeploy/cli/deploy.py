"""The command that serves bundles."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter, print_lines, print_result, print_table

if TYPE_CHECKING:
    from t2tdeploy.serving.configuration import Configured, ServeSettings
    from t2tdeploy.serving.rehearsal import Rehearsed

Command = TypeVar("Command", bound=Callable[..., Any])

_FLAGS = {"bundles": "--bundle", "aliases": "--alias", "poll_seconds": "--poll"}
"""Those that are not called like their option."""

# Their values are checked with those of the file and the environment, all at once: click itself checks none.
_SERVE_OPTIONS = (
    click.option(
        "--bundle", "bundles", metavar="FOLDER", multiple=True, help="What export wrote; may be given several times."
    ),
    click.option("--repository", metavar="FOLDER", help="Models and versions instead: NAME/1, NAME/2, … are bundles."),
    click.option("--versions", metavar="WHICH", help="Versions that are served: latest, latest:N, all, 1+3 [latest]."),
    click.option(
        "--alias",
        "aliases",
        metavar="NAME=MODEL",
        multiple=True,
        help="Another name; MODEL or MODEL:VERSION. Repeatable.",
    ),
    click.option("--poll", "poll_seconds", metavar="SECONDS", help="Between looks for new bundles [never]."),
    click.option("--host", metavar="ADDRESS", help="Address to listen on [127.0.0.1]; 0.0.0.0 for every interface."),
    click.option("--port", metavar="PORT", help="Port to listen on [50051]; 0 takes a free one."),
    click.option("--http-port", metavar="PORT", help="Port that answers HTTP and JSON as well [none]."),
    click.option("--ui", is_flag=True, default=None, help="Serve a page to try it, on --http-port [8080]."),
    click.option("--ui-examples", metavar="FILE", help="Sentences to click on that page, one a line."),
    click.option("--variant", metavar="NAME", help="Form of the graph that runs [the bundle's default]."),
    click.option(
        "--workers",
        metavar="N",
        help="Batches that run at once [2 to translate on several CPUs without --threads, else 1].",
    ),
    click.option("--threads", metavar="N", help="Threads of a batch [all CPUs, or a share of them beside another]."),
    click.option("--tls-certificate", metavar="FILE", help="PEM file; with --tls-key, the server speaks TLS."),
    click.option("--tls-key", metavar="FILE", help="PEM file with the certificate's key."),
    click.option("--tls-client-ca", metavar="FILE", help="PEM file; clients need a certificate of these authorities."),
    click.option("--token-file", metavar="FILE", help="Clients need one of these tokens: lines name:role:token."),
    click.option("--log-format", metavar="FORMAT", help="Lines of the log: text, or json [text]."),
)


def _serve_options(command: Command) -> Command:
    for option in reversed(_SERVE_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.option("--config", type=options.file, help="Any of the options, in a TOML file: port = 50051.")
@_serve_options
@click.option("--options", "overrides", default="", metavar="A=1,B=2", help="Any further option of the server.")
@click.option("--check", is_flag=True, help="Read, load and try everything, print what would be served, and end.")
@options.as_json
def serve(config: Path | None, overrides: str, check: bool, as_json: bool, **flags: Any) -> None:
    """Serve bundles over gRPC until SIGTERM or Ctrl-C; accepted requests are finished first.

    Options come from --config, then the variables T2TDEPLOY_SERVE_<OPTION>, then flags: the last one wins.
    docs/operations.md lists them all.

    \b
    Examples:
      t2tdeploy serve --bundle bundles/dates --port 50051
      t2tdeploy serve --bundle bundles/dates --ui
      t2tdeploy serve --repository models --poll 10 --alias production=ende:2
      t2tdeploy serve --config serve.toml --check
    """
    from t2tdeploy.serving.access_log import ACCESS_LOGGER, make_formatter
    from t2tdeploy.serving.configuration import (
        ServeSettings,
        configure,
        from_environment,
        from_file,
        from_flags,
        from_overrides,
    )
    from t2tdeploy.serving.server import serve as run_server

    layers = [from_file(config)] if config else []
    layers += [from_environment(os.environ), from_flags(flags, _FLAGS), from_overrides(overrides)]
    configured = configure(ServeSettings, layers)
    settings = configured.settings
    handler = logging.StreamHandler()
    handler.setFormatter(make_formatter(settings.log_format))
    logging.basicConfig(handlers=[handler])
    logging.getLogger(ACCESS_LOGGER).setLevel(logging.INFO)
    logging.getLogger("t2tdeploy.serving").setLevel(logging.INFO)
    if check:
        _check(configured, as_json)
        return
    run_server(settings.source(), settings, make_reporter(as_json))


def _check(configured: Configured[ServeSettings], as_json: bool) -> None:
    """Prints what would be served.

    Raises:
        OperationalError: not all of it could be.
    """
    from t2tdeploy.errors import OperationalError
    from t2tdeploy.progress import SilentReporter
    from t2tdeploy.serving.bundle_source import label_of
    from t2tdeploy.serving.rehearsal import rehearse

    settings, sources = configured.settings, configured.sources
    found = rehearse(settings.source(), settings, SilentReporter())
    given = {name: layer.name_of(name) for name, layer in sources.items()}
    values = settings.model_dump(mode="json")
    if as_json:
        print_result({"models": [vars(one) for one in found], "options": values, "sources": given}, as_json=True)
    else:
        rows = [[one.name, one.number or None, one.content or None, one.variant or None, _state(one)] for one in found]
        print_table(["model", "version", "content", "variant", "state"], rows)
        print_lines([f"{name} = {values[name]!r}  ({place})" for name, place in given.items()])
    if faults := [one for one in found if one.fault]:
        names = ", ".join(label_of(one.name, one.number) for one in faults)
        raise OperationalError(f"not everything could be served: {names}", help="the reasons are in the table above")


def _state(one: Rehearsed) -> str:
    return one.fault or "would be served"
