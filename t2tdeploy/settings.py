"""Frozen, validated settings with Tensor2Tensor's override grammar; the base of hparams and of problem options."""

from __future__ import annotations

import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from t2tdeploy.errors import Fault, SettingsError, nearest

_ASSIGNMENT = re.compile(
    r"""\s*(?P<name>[A-Za-z]\w*)\s*
        (?:\[\s*(?P<index>\d+)\s*\])?\s*=\s*
        (?:\[(?P<values>[^\]]*)\]|(?P<value>[^,\[\]]*))\s*(?:,|$)""",
    re.VERBOSE,
)


def parse_overrides(text: str) -> list[tuple[str, int | None, str | list[str]]]:
    """Reads `a=1,b=[2,3],c[0]=4` into (name, index or None, value or values).

    The grammar is that of tf.contrib.training.HParams.parse, which Tensor2Tensor's `--hparams` uses. Values stay
    strings here; the field's declared type converts them.

    Raises:
        SettingsError: a piece is not an assignment; all good pieces before it are still read.
    """
    found: list[tuple[str, int | None, str | list[str]]] = []
    position = 0
    while position < len(text):
        match = _ASSIGNMENT.match(text, position)
        if match is None:
            raise SettingsError(
                "overrides",
                [Fault(text[position:], None, "not of the form name=value, name[i]=value or name=[a,b]")],
                help="write overrides as a=1,b=[2,3],c[0]=4",
            )
        index = int(match["index"]) if match["index"] is not None else None
        value: str | list[str]
        if match["values"] is not None:
            value = [item.strip() for item in match["values"].split(",") if item.strip()]
        else:
            value = match["value"].strip()
        found.append((match["name"], index, value))
        position = match.end()
    return found


class Settings(BaseModel):
    """A frozen record whose every field has a type, a range and a description. Unknown fields are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def create(cls, values: dict[str, Any]) -> Self:
        """Validates `values`.

        Raises:
            SettingsError: with every fault at once, unknown names with the nearest known one.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError(cls.__name__, [_fault(cls, item) for item in error.errors()]) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated."""
        return self.create({**self.model_dump(), **changes})

    def override(self, text: str) -> Self:
        """A copy with the overrides of `text` (see `parse_overrides`); `none` sets an optional field to None.

        Raises:
            SettingsError: with every fault at once.
        """
        values, faults = self.model_dump(), []
        for name, index, value in parse_overrides(text):
            if index is None:
                values[name] = None if value == "none" else value
                continue
            items = values.get(name)
            if not isinstance(items, list | tuple) or index >= len(items):
                length = f"it has {len(items)} items" if isinstance(items, list | tuple) else "it is no list"
                faults.append(Fault(f"{name}[{index}]", value, length))
                continue
            values[name] = [*items[:index], value, *items[index + 1 :]]
        try:
            result = self.create(values)
        except SettingsError as error:
            raise SettingsError(error.kind, [*faults, *error.faults]) from None
        if faults:
            raise SettingsError(type(self).__name__, faults)
        return result

    def differences(self, other: Settings) -> dict[str, tuple[Any, Any]]:
        """Fields that differ: name -> (value here, value in `other`)."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        names = [*mine, *(name for name in theirs if name not in mine)]
        return {name: (mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)}


def _fault(cls: type[BaseModel], item: Any) -> Fault:
    field = ".".join(str(part) for part in item["loc"]) or "settings"
    if item["type"] == "extra_forbidden":
        return Fault(field, item["input"], "no such field", nearest(field, cls.model_fields))
    message = item["msg"].removeprefix("Value error, ")
    return Fault(field, item["input"], message[0].lower() + message[1:])
