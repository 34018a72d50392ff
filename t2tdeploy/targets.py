"""Which variants of a bundle this machine runs."""

from __future__ import annotations

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import OperationalError
from t2tdeploy.providers import NEEDED
from t2tdeploy.runtime import available_targets


def runnable(bundle: Bundle) -> list[str]:
    """The names of the variants that this machine runs, in the manifest's order."""
    targets = available_targets()
    return [name for name, variant in bundle.manifest.variants.items() if variant.target in targets]


def require_runnable(bundle: Bundle, name: str | None) -> None:
    """Checks that this machine runs a variant (None: the default one).

    Raises:
        UnknownNameError: the bundle has no such variant.
        OperationalError: it is made for another kind of machine, or onnxruntime is not installed.
    """
    target, targets = bundle.variant(name).target, available_targets()
    if target not in targets:
        here = runnable(bundle)
        raise OperationalError(
            f"variant '{name or bundle.manifest.default_variant}' is made for {target}; "
            f"the onnxruntime installed here runs graphs on {', '.join(targets)}",
            help="; or ".join([NEEDED[target], *([f"choose one with --variant: {', '.join(here)}"] if here else [])]),
        )
