"""A process that may not read everything: root, as which tests in a container run, may."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Within it the process, all its threads included, has no more rights than any user."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(NOBODY)
    except OSError as error:
        pytest.skip(f"this process cannot become another user: {error}")
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def folder_for_all() -> Iterator[Path]:
    """A temporary folder that every user may look into; those of pytest are the owner's alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with as_nobody():
            reached = os.access(folder, os.R_OK | os.X_OK, effective_ids=True)
        if not reached:
            pytest.skip(f"{folder} lies in a folder that not every user may look into")
        yield folder
