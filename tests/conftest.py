"""What every test session shares. With `pytest -n auto`, a session is one of several, each on CPUs of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2tdeploy.runtime import available_cpus
from tests.sessions import folder_of_all

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # on a machine with a GPU it may be missing
    pass
else:  # a busy machine is no fault of what is tested
    settings.register_profile("t2tdeploy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("t2tdeploy")

MOST_SESSIONS = 8  # each may hold a gigabyte


@pytest.hookimpl(optionalhook=True)  # the plugin may be missing on a machine with a GPU
def pytest_xdist_auto_num_workers() -> int:
    """pytest-xdist would count the machine's CPUs, not the container's."""
    return min(available_cpus(), MOST_SESSIONS)


def pytest_configure(config: pytest.Config) -> None:
    """Keeps a session, and the processes it starts, on its own CPUs: threads that wait for a CPU spin meanwhile."""
    session = getattr(config, "workerinput", None)
    if session is not None and hasattr(os, "sched_setaffinity"):
        number, count = int(session["workerid"].removeprefix("gw")), int(session["workercount"])
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[number::count] or [cpus[number % len(cpus)]])


@pytest.fixture(scope="session", autouse=True)
def graph_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where training graphs are kept: one folder for all sessions, so that each is built once; nobody's home."""
    folder = folder_of_all(tmp_path_factory, "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2TDEPLOY_CACHE", str(folder))
        yield folder / "graphs"
