"""The entry point: the group of commands, and the edge where exceptions become sentences and exit codes."""

from __future__ import annotations

import io
import os
import sys

import click

from t2tdeploy import __version__
from t2tdeploy.cli.benchmark import benchmark
from t2tdeploy.cli.classify import classify
from t2tdeploy.cli.console import INTERRUPTED, print_error
from t2tdeploy.cli.corpus import translate_corpus
from t2tdeploy.cli.data import datagen, list_names
from t2tdeploy.cli.deploy import serve
from t2tdeploy.cli.export import export
from t2tdeploy.cli.load import load_test
from t2tdeploy.cli.optimize import optimize
from t2tdeploy.cli.runs import average, decode, evaluate, train
from t2tdeploy.cli.translate import score, translate
from t2tdeploy.errors import OperationalError, T2TDeployError, UserError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, package_name="t2tdeploy")
def commands() -> None:
    """Train sequence models and classifiers, export them to one ONNX graph (beam search inside), serve it over gRPC.

    \b
    The road, on the embedded data:
      t2tdeploy datagen   --problem translate_dates_ende --data-dir data
      t2tdeploy train     --problem translate_dates_ende --data-dir data --output-dir runs/dates
      t2tdeploy export    --output-dir runs/dates --bundle bundles/dates --name dates
      t2tdeploy serve     --bundle bundles/dates
      t2tdeploy translate --server localhost:50051 "The meeting is on May 3, 2024."
    """


for command in (
    list_names, datagen, train, evaluate, decode, average, export, optimize, benchmark, serve, translate, score,
    classify, translate_corpus, load_test,
):  # fmt: skip
    commands.add_command(command)


def _missing_package(error: ModuleNotFoundError) -> OperationalError:
    """Most commands need the packages of an extra."""
    return OperationalError(
        f"the Python package '{error.name}' is not installed",
        help="pip install 't2tdeploy[train]' to train and export, 't2tdeploy[serve]' to serve and translate, "
        "'t2tdeploy[corpus]' for translate-corpus, 't2tdeploy[ray]' for its workers",
    )


def _prepare_streams() -> None:
    """Makes standard streams speak UTF-8, as files do whatever the locale is. A closed error stream swallows all: to
    `print`, no stream is standard output."""
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(os.devnull, "w"))
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, None), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors or stream.errors)


def main() -> None:
    """Runs the command line and exits: 0 done, 1 an operational fault, 2 a user's."""
    _prepare_streams()
    as_json = "--json" in sys.argv and "classify" not in sys.argv[1:2]  # there it names a file
    try:
        status = commands.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except T2TDeployError as error:
        print_error(error, as_json=as_json)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(UserError.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        help = f"{context.command_path} --help shows the options" if context else None
        print_error(UserError(error.format_message(), help=help), as_json=as_json)
        sys.exit(UserError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        print_error(OperationalError("interrupted"), as_json=as_json)
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("t2tdeploy"):
            raise
        print_error(_missing_package(error), as_json=as_json)
        sys.exit(OperationalError.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; Python would complain about it once more
        sys.exit(OperationalError.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        help = "check the path, its permissions and the free space" if error.filename else None
        print_error(OperationalError(f"{place}{error.strerror or error}", help=help), as_json=as_json)
        sys.exit(OperationalError.exit_code)
