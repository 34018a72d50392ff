"""What `import t2tdeploy` offers to Python programs."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from t2tdeploy.bundle import load_bundle
from t2tdeploy.translator import Translator


def load(
    bundle: str | PathLike[str], *, variant: str | None = None, threads: int | None = None, warm_up: bool = True
) -> Translator:
    """Opens a bundle: `t2tdeploy.load("bundles/ende").translate(["Two dogs."], beam_size=4)`.

    What decode, the server and the clients' answers rest on. Needs no torch. Safe to use from several threads.

    Args:
        bundle: the folder that `t2tdeploy export` wrote.
        variant: of the bundle; None: its default.
        threads: that one search uses; None: all CPUs this process may use.
        warm_up: run the graph once, so that the first answer is as fast as the others.

    Raises:
        InputError: there is no bundle.
        CorruptFileError: a file of the bundle is damaged.
        UnknownNameError: the bundle has no such variant.
        OperationalError: onnxruntime is not installed.
    """
    translator = Translator(load_bundle(Path(bundle)), variant=variant, threads=threads)
    if warm_up:
        translator.warm_up()
    return translator
