"""Pictures: whether one can be drawn, before the work that it shows; names of users in it; writing it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from t2tdeploy.errors import InputError
from t2tdeploy.files import require_writable, written_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = {".pdf", ".png", ".svg"}


def require_drawable(path: Path) -> None:
    """Finds out before a measurement whether its picture can be drawn after it.

    Raises:
        InputError: no format goes by that ending, there is no such folder, or it may not be written to.
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib.figure  # noqa: F401

    if path.suffix not in FORMATS:
        raise InputError(f"{path} is no picture: it ends with none of {', '.join(sorted(FORMATS))}", path=path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: {path.absolute().parent} is not a folder", path=path)
    require_writable(path)


def as_label(text: str, longest: int | None = None) -> str:
    """A text as matplotlib draws it letter by letter: without mathematics between dollar signs.

    Args:
        longest: characters it is cut down to; None: any number.
    """
    short = text if longest is None or len(text) <= longest else text[: longest - 1] + "…"
    return short.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Writes the picture, in the format that its ending names, as `written_file` does."""
    content = io.BytesIO()  # Pillow and PDFs want to go back in what they write, which no pipe can
    figure.savefig(content, format=path.suffix[1:], dpi=110)
    with written_file(path) as place:
        place.write_bytes(content.getvalue())
