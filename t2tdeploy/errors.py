"""The exception tree. Exceptions carry data; the command line adds `error:` and `help:` and picks the exit code.

T2TDeployError
├── UserError                 exit 2: the user can mend it
│   ├── UnknownNameError      a name that is not registered, with the nearest one
│   ├── SettingsError         faulty hparams or options, every fault at once
│   ├── InputError            a file, folder, column or line that is not as it must be
│   ├── DifferentiationError  a model that cannot become a training graph: the operator and where it is
│   ├── RunConflictError      a rerun whose settings differ from the run directory's
│   └── RequestError          one field of a request to a bundle or server
│       └── TooLargeError     a request that its server would answer in parts
└── OperationalError          exit 1: the world did not play along
    ├── DownloadError         a source could not be fetched or is damaged
    ├── CorruptFileError      a checkpoint, bundle or shard whose checksum is wrong
    ├── UnreadableError       a file or folder that is there, but cannot be read now
    ├── ParityError           an exported graph that disagrees with its oracle
    ├── QualityError          a variant of a bundle that is too far from the float32 one
    ├── NotNumbersError       a model whose scores are NaN
    ├── TrainingError         a loss that is not finite, or memory that ran out
    └── ServerError           an answer of a server other than OK
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


class T2TDeployError(Exception):
    """Root of all errors that t2tdeploy raises on purpose.

    Args:
        message: what is wrong, naming the value.
        help: what to do about it, shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help

    def __reduce__(self) -> tuple[object, ...]:
        # Constructors of subclasses take other arguments than Exception.args, so a worker's error needs this to
        # reach its parent process.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[T2TDeployError], args: tuple[object, ...], state: dict[str, object]) -> T2TDeployError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class UserError(T2TDeployError):
    """The user can mend it: exit code 2."""

    exit_code = 2


class OperationalError(T2TDeployError):
    """Nothing wrong with what was asked, but it could not be done: exit code 1."""


_LONGEST_NAME = 200
"""Characters of a name that is compared with others; the time grows with them, and clients of a server choose them."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `name`, or None if none does."""
    if len(name) > _LONGEST_NAME:
        return None
    found = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


class UnknownNameError(UserError):
    """`name` is not among the registered names of its kind (problem, model, hparams set, …)."""

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        self.kind, self.name, self.choices = kind, name, sorted(choices)
        self.nearest = nearest(name, self.choices)
        listed = ", ".join(self.choices) or "none"
        super().__init__(
            f"unknown {kind} '{name}'; valid choices: {listed}",
            help=f"did you mean '{self.nearest}'?" if self.nearest else None,
        )


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one field of a settings object, or (field None) with its fields together."""

    field: str | None
    value: object
    problem: str
    nearest: str | None = None

    def __str__(self) -> str:
        place = f"{self.field} = {self.value!r}: " if self.field else ""
        hint = f" (did you mean '{self.nearest}'?)" if self.nearest else ""
        return f"{place}{self.problem}{hint}"


class SettingsError(UserError):
    """All faults of one set of hparams or options."""

    def __init__(self, kind: str, faults: Sequence[Fault], *, help: str | None = None) -> None:
        self.kind, self.faults = kind, tuple(faults)
        lines = "".join(f"\n  {fault}" for fault in faults)
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__(f"{count} in {kind}:{lines}", help=help)


class InputError(UserError):
    """A file, folder, column or line given by the user is not as it must be."""

    def __init__(
        self, message: str, *, path: Path | str | None = None, line: int | None = None, help: str | None = None
    ) -> None:
        self.path, self.line = path, line
        super().__init__(message, help=help)


class DifferentiationError(UserError):
    """A model cannot become a graph of forward and backward.

    Args:
        operator: the ATen operator that cannot be differentiated or written in ONNX, if it is known.
        module_path: where in the model it is, as in `named_modules`; None if that is not known.
    """

    def __init__(self, reason: str, *, operator: str | None = None, module_path: str | None = None) -> None:
        self.operator, self.module_path = operator, module_path
        parts = [operator, f"module '{module_path}'" if module_path else None]
        what = " in ".join(part for part in parts if part) or "the model"
        super().__init__(
            f"{what} cannot become part of a training graph: {reason}",
            help="train with --engine torch, which needs no graph",
        )


class RunConflictError(UserError):
    """A rerun asks for settings that differ from those its run directory was made with."""

    def __init__(
        self,
        directory: Path,
        differences: dict[str, tuple[object, object]],
        *,
        help: str = "choose another --output-dir, or repeat the recorded settings to resume",
    ) -> None:
        self.directory, self.differences = directory, differences
        lines = "".join(
            f"\n  {name}: {recorded!r} in the run directory, {asked!r} asked"
            for name, (recorded, asked) in differences.items()
        )
        super().__init__(
            f"{directory} holds a run with other settings:{lines}",
            help=help,
        )


class RequestError(UserError):
    """One field of a request is not valid (gRPC: INVALID_ARGUMENT)."""

    def __init__(self, field: str, message: str, *, help: str | None = None) -> None:
        self.field = field
        super().__init__(f"{field}: {message}", help=help)


class TooLargeError(RequestError):
    """A request is larger than its server takes; one of fewer sources or examples may not be."""


class DownloadError(OperationalError):
    """A source could not be fetched, or what came is damaged."""

    def __init__(self, url: str, reason: str, *, help: str | None = None) -> None:
        self.url, self.reason = url, reason
        super().__init__(f"cannot fetch {url}: {reason}", help=help)


class CorruptFileError(OperationalError):
    """A file's content does not match its recorded checksum or format."""

    def __init__(self, path: Path, reason: str, *, help: str | None = None) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path} is damaged: {reason}", help=help)


class UnreadableError(OperationalError):
    """A file or folder is there, as far as can be seen, but cannot be read now; nothing is known of what is in it."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path} cannot be read: {error.strerror or error}", help=_help_to_read(error.errno))
        self.path = path


def _help_to_read(number: int | None) -> str | None:
    match number:
        case errno.EACCES | errno.EPERM:
            return "let the user who runs this read it, the folders around it and what is in it"
        case errno.ENOENT | errno.ENOTDIR:
            return "see whether it is being moved or removed, and try again"
        case errno.ELOOP:
            return "see where the links on the way to it lead"
        case errno.EMFILE | errno.ENFILE:
            return "let the process open more files (ulimit -n), or close some that are open on this machine"
    if number in _OF_DISKS:
        return "see whether its disk is well"
    return None


_OF_DISKS = {
    getattr(errno, name, None)  # not every system has all of them
    for name in (
        *("EIO", "ENXIO", "ENODEV", "ENOMEDIUM", "EUCLEAN", "EBADMSG"),
        *("ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EREMOTEIO"),
    )
} - {None}


class ParityError(OperationalError):
    """An exported graph disagrees with its oracle."""


class QualityError(OperationalError):
    """A variant of a bundle is too far from the float32 one."""


class NotNumbersError(OperationalError):
    """A model scores with NaN, so that a search finds nothing."""

    def __init__(self) -> None:
        super().__init__(
            "the model's scores are not numbers (NaN), so there is nothing to choose from",
            help="if training diverged, take an earlier checkpoint, or train again with a lower "
            "learning_rate_constant; of a bundle with variants, ask its float32 one",
        )


class TrainingError(OperationalError):
    """Training cannot go on: the loss is not finite, or memory ran out."""


class ServerError(OperationalError):
    """A server answered with a status other than OK.

    Args:
        status: the gRPC status name, e.g. RESOURCE_EXHAUSTED.
        details: the server's words.
    """

    def __init__(self, status: str, details: str, *, help: str | None = None) -> None:
        self.status, self.details = status, details
        super().__init__(f"{status}: {details}", help=help)
