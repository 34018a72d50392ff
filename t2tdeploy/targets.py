"""Which variants of a bundle this machine runs."""

from __future__ import annotations

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import OperationalError

RUN_HERE = frozenset({"cpu"})  # what runtime.GraphSession makes sessions for


def runnable(bundle: Bundle) -> list[str]:
    """The names of the variants that this machine runs, in the manifest's order."""
    return [name for name, variant in bundle.manifest.variants.items() if variant.target in RUN_HERE]


def require_runnable(bundle: Bundle, name: str | None) -> None:
    """Checks that this machine runs a variant (None: the default one).

    Raises:
        UnknownNameError: the bundle has no such variant.
        OperationalError: it is made for another kind of machine.
    """
    target = bundle.variant(name).target
    if target not in RUN_HERE:
        here = runnable(bundle)
        raise OperationalError(
            f"variant '{name or bundle.manifest.default_variant}' is made for {target}; "
            f"this t2tdeploy runs graphs on {', '.join(sorted(RUN_HERE))}",
            help=f"choose one with --variant: {', '.join(here)}" if here else None,
        )
