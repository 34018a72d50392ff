"""What `import t2tdeploy` offers to Python programs."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from t2tdeploy.bundle import load_bundle
from t2tdeploy.classifier import Classifier
from t2tdeploy.runtime import SPIN_US
from t2tdeploy.targets import require_runnable
from t2tdeploy.translator import Translator


def load_translator(bundle: str | PathLike[str], *, variant: str | None = None) -> Translator:
    """As `load` without warm-up, for programs that only translate.

    Raises:
        InputError: there is no bundle, or it does something else.
        CorruptFileError, UnreadableError, UnknownNameError, OperationalError: as `load`.
    """
    found = load_bundle(Path(bundle))
    require_runnable(found, variant)
    return Translator(found, variant=variant)


def load(
    bundle: str | PathLike[str],
    *,
    variant: str | None = None,
    threads: int | None = None,
    spin_us: int = SPIN_US,
    warm_up: bool = True,
) -> Any:
    """Opens a bundle: `t2tdeploy.load("bundles/ende").translate(["Two dogs."], beam_size=4)`, or
    `t2tdeploy.load("bundles/reviews").classify(["What a film!"], top_k=2)`.

    What decode, the server and the clients' answers rest on. Needs no torch. Safe to use from several threads.

    Args:
        bundle: the folder that `t2tdeploy export` wrote.
        variant: of the bundle; None: its default.
        threads: that one search uses; None: all CPUs this process may use.
        spin_us: microseconds that a thread without work stays awake within a search; 0 where CPUs are shared.
        warm_up: run the graph once, so that the first answer is as fast as the others.

    Returns:
        A `Translator`, or a `Classifier` if the bundle classifies or regresses. The bundle decides, so no type is
        declared.

    Raises:
        InputError: there is no bundle.
        CorruptFileError: a file of the bundle is damaged.
        UnreadableError: one cannot be read.
        UnknownNameError: the bundle has no such variant.
        OperationalError: onnxruntime is not installed, or not for the kind of machine that the variant is made for.
    """
    found = load_bundle(Path(bundle))
    require_runnable(found, variant)
    kind = Translator if found.manifest.task == "translate" else Classifier
    model = kind(found, variant=variant, threads=threads, spin_us=spin_us)
    if warm_up:
        model.warm_up()
    return model
