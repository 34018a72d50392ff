"""From declared columns and training rows to the features of a problem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from t2tdeploy.columns.declare import Categorical, Crossed, Declaration
from t2tdeploy.columns.fitted import raw_columns
from t2tdeploy.columns.values import Raw, RawColumn
from t2tdeploy.errors import InputError, nearest
from t2tdeploy.features import FeatureSpec, graph_outputs


def fit_columns(declarations: Sequence[Declaration], raw: Raw) -> dict[str, FeatureSpec]:
    """Feature name -> its declaration, with the fitted column in it.

    Args:
        raw: the training rows.

    Raises:
        InputError: a column is missing, or is read as number and as text, or nothing can be learned of it.
    """
    columns = resolve(declarations)
    for name in raw_of(columns):
        if name not in raw:
            close = nearest(name, raw)
            raise InputError(
                f"there is no column '{name}'; valid columns: {', '.join(raw) or 'none'}",
                help=f"did you mean '{close}'?" if close else None,
            )
    names = feature_names(columns)
    return {name: column.fit(raw).feature(name) for name, column in zip(names, columns, strict=True)}


def require_graph_names(inputs: Mapping[str, FeatureSpec], target: FeatureSpec) -> None:
    """Finds out before a training whether its model can be exported with these columns.

    Args:
        inputs: the features beside the target.

    Raises:
        InputError: a column has no name, or that of an output of the graph.
    """
    made = [name for name, spec in inputs.items() if spec.column is not None]
    columns = [*made, *raw_columns(dict(inputs))]
    if not all([*inputs, *columns]):
        raise InputError("a column has no name", help="give it a name, or leave it out")
    for name in columns:
        if name in graph_outputs(target):
            raise InputError(f"column '{name}' has the name of an output of the graph", help="give it another name")


def resolve(declarations: Sequence[Declaration]) -> list[Declaration]:
    """The declarations with columns in the place of the names that crosses have for them.

    Raises:
        InputError: there is no such column.
    """
    beside = {
        column.name: column
        for column in declarations
        if isinstance(column, Categorical) and not isinstance(column, Crossed)
    }
    return [column.resolved(beside) if isinstance(column, Crossed) else column for column in declarations]


def raw_of(columns: Iterable[Declaration]) -> dict[str, RawColumn]:
    """The raw columns that resolved declarations read.

    Raises:
        InputError: one is read as number and as text.
    """
    found: dict[str, RawColumn] = {}
    for column in columns:
        for raw in column.raw:
            if (other := found.setdefault(raw.name, raw)) != raw:
                raise InputError(
                    f"column '{raw.name}' is declared as {_describe(other)} and as {_describe(raw)}",
                    help="numeric and bucketized columns hold numbers; vocabularies and hashed ones hold text",
                )
    return found


def _describe(raw: RawColumn) -> str:
    return raw.kind + (f" of shape {list(raw.shape)}" if raw.shape else "")


def feature_names(columns: Sequence[Declaration]) -> list[str]:
    """What the features are called: `city_value`, `sepal_length_cm_number`, with a number behind those alike.

    Such names can be part of a parameter's name and of a traced model's signature, which "sepal length (cm)" cannot,
    and cannot be taken for "targets", or for what a torch module already has, such as "type".
    """
    names: list[str] = []
    for column in columns:
        plain = re.sub(r"[^0-9a-zA-Z]+", "_", column.name).strip("_").lower()
        wanted = name = f"{plain if plain[:1].isalpha() else f'column_{plain}'.rstrip('_')}_{column.label}"
        number = 2
        while name in names:
            name, number = f"{wanted}_{number}", number + 1
        names.append(name)
    return names
