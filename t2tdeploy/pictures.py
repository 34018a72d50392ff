"""Pictures that commands write: which formats, and whether one can be drawn before the work that it shows."""

from __future__ import annotations

from pathlib import Path

from t2tdeploy.errors import InputError

FORMATS = {".pdf", ".png", ".svg"}


def require_drawable(path: Path) -> None:
    """Finds out before a measurement whether its picture can be drawn after it.

    Raises:
        InputError: no format goes by that ending, or there is no such folder.
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib.figure  # noqa: F401

    if path.suffix not in FORMATS:
        raise InputError(f"{path} is no picture: it ends with none of {', '.join(sorted(FORMATS))}", path=path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: {path.absolute().parent} is not a folder", path=path)
