"""What an error carries, says and keeps on its way out of a worker process."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from t2tdeploy import errors
from t2tdeploy.errors import Fault, RunConflictError, SettingsError, T2TDeployError, UnknownNameError, nearest

EXAMPLES = [
    errors.T2TDeployError("something", help="do this"),
    errors.UserError("something"),
    errors.UnknownNameError("model", "transfomer", ["transformer", "lstm"]),
    errors.SettingsError("HParams", [Fault("dropout", "2", "too large"), Fault(None, {}, "do not fit")], help="h"),
    errors.InputError("no such line", path=Path("a.txt"), line=3, help="look"),
    errors.RunConflictError(Path("run"), {"seed": (0, 1)}),
    errors.RequestError("sources[3]", "too long"),
    errors.TooLargeError("sources", "300 in one request, the server takes 256"),
    errors.OperationalError("no luck"),
    errors.DownloadError("https://example.org/a", "404", help="try later"),
    errors.CorruptFileError(Path("model.onnx"), "its checksum does not match"),
    errors.UnreadableError(Path("model.onnx"), PermissionError(13, "Permission denied")),
    errors.ParityError("they differ"),
    errors.QualityError("they differ too much"),
    errors.NotNumbersError(),
    errors.TrainingError("the loss is nan"),
    errors.DifferentiationError("it has no gradient", operator="aten.svd.default", module_path="encoder.0"),
    errors.ServerError("UNAVAILABLE", "stopping", help="wait"),
]


def test_every_class_has_an_example_here() -> None:
    def with_subclasses(cls: type[T2TDeployError]) -> set[type[T2TDeployError]]:
        return {cls}.union(*(with_subclasses(sub) for sub in cls.__subclasses__()))

    ours = {found for found in with_subclasses(T2TDeployError) if found.__module__ == errors.__name__}
    assert {type(example) for example in EXAMPLES} == ours


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_between_processes(error: T2TDeployError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error) == error.message
    assert vars(arrived) == vars(error)
    assert arrived.exit_code == error.exit_code


def test_an_unknown_name_shows_the_choices_and_the_nearest() -> None:
    error = UnknownNameError("model", "transfomer", ["transformer", "lstm"])
    assert str(error) == "unknown model 'transfomer'; valid choices: lstm, transformer"
    assert error.help == "did you mean 'transformer'?"
    assert UnknownNameError("model", "xyz", ["transformer"]).help is None
    assert str(UnknownNameError("model", "xyz", [])) == "unknown model 'xyz'; valid choices: none"


def test_nearest_is_the_most_alike_or_nothing() -> None:
    assert nearest("dropuot", ["dropout", "relu_dropout", "alpha"]) == "dropout"
    assert nearest("dropuot", ["alpha", "beam_size"]) is None
    assert nearest("dropuot", []) is None


def test_a_name_of_any_length_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of a server may send one of megabytes."""
    monkeypatch.setattr(errors.difflib, "get_close_matches", lambda *_, **__: pytest.fail("compared"))
    assert UnknownNameError("model", "x" * 10_000, ["toy"]).nearest is None


def test_settings_errors_list_every_fault_on_a_line() -> None:
    faults = [
        Fault("dropuot", "0.3", "no such field", "dropout"),
        Fault("alpha", "x", "not a number"),
        Fault(None, {"a": 1}, "they do not fit"),
    ]
    assert str(SettingsError("HParams", faults)).splitlines() == [
        "3 faults in HParams:",
        "  dropuot = '0.3': no such field (did you mean 'dropout'?)",
        "  alpha = 'x': not a number",
        "  they do not fit",
    ]
    assert str(SettingsError("HParams", faults[:1])).startswith("1 fault in HParams:")


def test_a_run_conflict_shows_both_values_of_each_difference() -> None:
    lines = str(RunConflictError(Path("run"), {"seed": (0, 1), "dropout": (0.1, None)})).splitlines()
    assert lines[1:] == [
        "  seed: 0 in the run directory, 1 asked",
        "  dropout: 0.1 in the run directory, None asked",
    ]


MAY_READ, MOVED, LINKS, MORE_FILES, DISK = (
    "let the user who runs this read it",
    "whether it is being moved or removed",
    "where the links on the way to it lead",
    "let the process open more files",
    "whether its disk is well",
)
HELP: dict[int, str | None] = {
    errno.EACCES: MAY_READ,
    errno.EPERM: MAY_READ,
    errno.ENOENT: MOVED,
    errno.ENOTDIR: MOVED,
    errno.ELOOP: LINKS,
    errno.EMFILE: MORE_FILES,
    errno.ENFILE: MORE_FILES,
    errno.EIO: DISK,
    errno.ESTALE: DISK,
    errno.ETIMEDOUT: DISK,
    errno.EUCLEAN: DISK,
    errno.EBADMSG: DISK,
    errno.EREMOTEIO: DISK,
    errno.ENOTCONN: DISK,
    errno.EHOSTDOWN: DISK,
    errno.ENOMEDIUM: DISK,
    errno.ENODEV: DISK,
    errno.ENXIO: DISK,
    errno.ENAMETOOLONG: None,
    errno.EISDIR: None,
}


@pytest.mark.parametrize("number", HELP, ids=errno.errorcode.get)
def test_what_to_do_about_an_unreadable_file_fits_what_the_system_said(number: int) -> None:
    error = errors.UnreadableError(Path("model.onnx"), OSError(number, os.strerror(number)))
    assert error.message == f"model.onnx cannot be read: {os.strerror(number)}"
    helps = [help for help in (MAY_READ, MOVED, LINKS, MORE_FILES, DISK) if help in str(error.help)]
    assert helps == [help for help in [HELP[number]] if help]
    assert (error.help is None) == (HELP[number] is None)
