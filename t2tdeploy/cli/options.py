"""Options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from t2tdeploy.serving.channel import Security

Command = TypeVar("Command", bound=Callable[..., Any])


class _Path(click.Path):
    """A path that is not empty: to Python, an empty one is the folder that the command runs in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


path = _Path(path_type=Path)
directory = _Path(path_type=Path, file_okay=False)
file = _Path(path_type=Path, dir_okay=False)
file_or_dash = _Path(path_type=Path, dir_okay=False, allow_dash=True)


class _FileOrStdout(_Path):
    """None for a dash, as it is where the option is not given."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        return None if value == "-" else super().convert(value, param, context)


file_or_stdout = _FileOrStdout(path_type=Path, dir_okay=False)


class Number(click.FloatRange):
    """A range of numbers. NaN is in none, though click lets it pass, and infinity only where it is said to mean
    something."""

    def __init__(
        self, low: float, high: float | None = None, *, min_open: bool = False, infinite: bool = False
    ) -> None:
        super().__init__(low, high, min_open=min_open)
        self._infinite = infinite

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click.ParamType."""
        number = super().convert(value, param, ctx)
        if math.isnan(number) or (math.isinf(number) and not self._infinite):
            self.fail(f"{number} is not a {'' if self._infinite else 'finite '}number.", param, ctx)
        return number


def as_json(command: Command) -> Command:
    """`--json`"""
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable output: one JSON object per line.")(
        command
    )


def usr_dir(command: Command) -> Command:
    """`--usr-dir`, imported before the command runs."""
    return click.option("--usr-dir", type=directory, help="Folder with your own problems and models; imported first.")(
        command
    )


def output_dir(command: Command) -> Command:
    """`--output-dir` of an existing run"""
    return click.option("--output-dir", type=directory, required=True, help="Run directory that train wrote.")(command)


def variant(command: Command) -> Command:
    """--variant of --bundle."""
    help = "With --bundle: form of its graph that runs [its default]."
    return click.option("--variant", metavar="NAME", help=help)(command)


def given(context: click.Context) -> dict[str, Any]:
    """Parameters by name that the command line gives and that say something: no defaults, flags that are off, ""."""
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        and not (value is None or value is False or value in ("", ()))
    }


def refuse(context: click.Context, names: Iterable[str], words: str) -> None:
    """Refuses options that would have no effect.

    Args:
        names: of their parameters.
        words: what is said behind the option's name.

    Raises:
        click.UsageError: one of them is given.
    """
    found = given(context)
    for name in names:
        if name in found:
            option = next(parameter.opts[0] for parameter in context.command.params if parameter.name == name)
            raise click.UsageError(f"{option} {words}", ctx=context)


def require_server_or_bundle(context: click.Context) -> None:
    """Checks that one of --server and --bundle is given, and no option that only the other one can follow.

    Raises:
        click.UsageError: neither or both, or there is one.
    """
    found = given(context)
    if ("server" in found) == ("bundle_dir" in found):
        both = "both given: choose one" if "server" in found else "give one of them"
        raise click.UsageError(f"--server or --bundle: {both}", ctx=context)
    if "server" in found:
        refuse(context, ["variant"], "is for a bundle: a server's is chosen by t2tdeploy serve --variant")
    else:
        refuse(context, ("model", "priority", "timeout", *SECURITY_NAMES), "is for a server: leave it out")


def checkpoint(command: Command) -> Command:
    """`--checkpoint`"""
    return click.option(
        "--checkpoint", default="best", show_default=True, help="best, last, averaged, or a step number."
    )(command)


def search(command: Command) -> Command:
    """`--beam-size`, `--alpha`, `--early-stopping` and `--patience`; default: those of the run or bundle"""
    beam = click.option("--beam-size", type=click.IntRange(1, 16), help="Beams of the search (1: greedy).")
    alpha = click.option("--alpha", type=Number(0, 10), help="Length penalty ((5 + n) / 6)^alpha.")
    early = click.option(
        "--early-stopping/--no-early-stopping", default=None,
        help="End a sentence's search once beam-size hypotheses have ended [runs: no; bundles: their default].",
    )  # fmt: skip
    patience = click.option("--patience", type=float, help="With early stopping: beam-size * patience of them [1].")
    return beam(alpha(early(patience(command))))


_SECURITY = (
    click.option("--tls", is_flag=True, help="Encrypt, and trust the well-known authorities."),
    click.option("--tls-ca", type=file, help="Encrypt, and trust the authorities in this PEM file."),
    click.option("--tls-certificate", type=file, help="Own certificate, for servers that ask for one: a PEM file."),
    click.option("--tls-key", type=file, help="Key of the own certificate: a PEM file."),
    click.option("--token-file", type=file, help="File with the token for the server [the variable T2TDEPLOY_TOKEN]."),
    click.option("--insecure-token", "plain_token", is_flag=True, help="Send the token even without encryption."),
)
SECURITY_NAMES = ("tls", "tls_ca", "tls_certificate", "tls_key", "token_file", "plain_token")


def security(command: Command) -> Command:
    """How a server is reached; see `security_of`."""
    for option in reversed(_SECURITY):
        command = option(command)
    return command


def security_of(given: Mapping[str, Any]) -> Security:
    """What the options of `security` say, and T2TDEPLOY_TOKEN where there is no --token-file."""
    from t2tdeploy.serving.channel import Security, read_token, require_token

    values = {name: given[name] for name in SECURITY_NAMES}
    path = values.pop("token_file")
    if path:
        return Security(**values, token=read_token(path))
    token = os.environ.get("T2TDEPLOY_TOKEN", "").strip()  # secrets often end with a line end
    return Security(**values, token=require_token(token, "the variable T2TDEPLOY_TOKEN") if token else None)


def import_user_code(usr_dir: Path | None) -> None:
    """Imports `--usr-dir`, if given."""
    if usr_dir is not None:
        from t2tdeploy.registry import import_usr_dir

        import_usr_dir(usr_dir)


def use_all_cpus(threads: int | None) -> None:
    """Sets torch's threads to `threads`, or to the CPUs this process may use."""
    import torch

    from t2tdeploy.runtime import available_cpus

    torch.set_num_threads(threads or available_cpus())
