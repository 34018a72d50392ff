"""A run directory that was begun, is in use, or was left by a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from t2tdeploy.errors import InputError, RunConflictError, UserError
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training.run_directory import RunDirectory

from .conftest import TINY, make_run
from .test_run_directory import save


def make_with_code(path: Path, data: ProblemData, data_dir: Path, usr_dir: Path | None) -> RunDirectory:
    return RunDirectory.create_or_resume(
        path, data=data, data_dir=data_dir, model="transformer", hparams=TINY, usr_dir=usr_dir
    )


def test_without_a_checkpoint_the_record_gives_way(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    user = tmp_path / "mine"
    user.mkdir()
    (user / "a.py").write_text("x = 1\n")
    path = tmp_path / "run"
    make_with_code(path, data, data_dir, user)
    run = make_run(path, data, data_dir, batch_size=64)
    assert RunDirectory.open(path).hparams.batch_size == run.hparams.batch_size == 64
    assert not (path / "usr").exists()
    save(run, 1)
    with pytest.raises(RunConflictError):
        make_run(path, data, data_dir, batch_size=32)


def test_our_own_unfinished_pieces_are_no_foreign_folder(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    path = tmp_path / "run"
    run = make_run(path, data, data_dir)
    (path / "run.json").unlink()
    (path / "usr").mkdir()
    (path / ".usr.abcdef01.partial").mkdir()
    (path / ".run.json.abcdef01.partial").touch()
    del run
    make_run(path, data, data_dir)
    assert {file.name for file in path.iterdir()} == {"run.json", "vocabularies", ".lock"}


def test_a_folder_called_usr_is_not_ours(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "thesis.tex").touch()
    with pytest.raises(InputError, match="neither empty"):
        make_run(tmp_path, data, data_dir)
    assert [file.name for file in tmp_path.iterdir()] == ["usr"]


_HOLDER = """
import sys
from pathlib import Path
from t2tdeploy.files import lock_file
held = lock_file(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    make_run(tmp_path, data, data_dir)
    arguments = [sys.executable, "-c", _HOLDER, str(tmp_path / ".lock")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match="being trained by another process") as error:
            make_run(tmp_path, data, data_dir)
        assert error.value.help
        process.send_signal(signal.SIGKILL)
        process.wait()
    make_run(tmp_path, data, data_dir)


def test_changed_user_code_is_another_run(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    user = tmp_path / "mine"
    (user / "deep" / "__pycache__").mkdir(parents=True)
    (user / "a.py").write_text("x = 1\n")
    (user / "deep" / "b.py").write_text("y = 1\n")
    path = tmp_path / "run"
    save(make_with_code(path, data, data_dir, user), 1)
    (user / "notes.txt").write_text("no code")
    (user / "deep" / "__pycache__" / "b.py").write_text("cache")
    make_with_code(path, data, data_dir, user)
    (user / "deep" / "b.py").write_text("y = 2\n")
    with pytest.raises(RunConflictError, match="usr_dir code") as error:
        make_with_code(path, data, data_dir, user)
    recorded, asked = error.value.differences["usr_dir code"]
    assert recorded != asked
    assert json.loads((path / "run.json").read_text())["usr_dir_hash"].startswith(str(recorded))
    with pytest.raises(RunConflictError, match="None asked"):
        make_with_code(path, data, data_dir, None)


def test_data_with_another_vocabulary_are_refused(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    run = make_run(tmp_path, data, data_dir)
    run.require_vocabulary_of(data)
    run.tokenizers["targets"] = _Other()  # type: ignore[assignment]
    with pytest.raises(InputError, match="vocabulary of 'targets'") as error:
        run.require_vocabulary_of(data)
    assert "--data-dir" in (error.value.help or "")


class _Other:
    hash = "0" * 64
