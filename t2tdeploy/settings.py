"""Frozen, validated settings with Tensor2Tensor's override grammar; the base of hparams and of problem options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from t2tdeploy.errors import Fault, SettingsError, nearest

_ASSIGNMENT = re.compile(
    r"""\s*(?P<name>[A-Za-z]\w*)\s*
        (?:\[\s*(?P<index>\d+)\s*\])?\s*=\s*
        (?:\[(?P<values>[^\[\]]*)\]|(?P<value>[^,\[\]]*))\s*(?:,|$)""",
    re.VERBOSE,
)
_NO_SUCH_FIELD = "no such field"

Assignment = tuple[str, int | None, str | list[str]]  # name, index of an item or None, value or values


def parse_overrides(text: str) -> list[Assignment]:
    """Reads `a=1,b=[2,3],c[0]=4` into (name, index or None, value or values).

    The grammar is that of tf.contrib.training.HParams.parse, which Tensor2Tensor's `--hparams` uses. Values stay
    strings here; the field's declared type converts them.

    Raises:
        SettingsError: a piece is not an assignment.
    """
    found: list[Assignment] = []
    position = 0
    while position < len(text):
        match = _ASSIGNMENT.match(text, position)
        if match is None:
            fault = Fault(None, text, f"'{text[position:]}' is not of the form name=value, name[i]=value or name=[a,b]")
            raise SettingsError("overrides", [fault], help="write overrides as a=1,b=[2,3],c[0]=4")
        index = int(match["index"]) if match["index"] is not None else None
        value: str | list[str]
        if match["values"] is not None:
            value = [item.strip() for item in match["values"].split(",") if item.strip()]
        else:
            value = match["value"].strip()
        found.append((match["name"], index, value))
        position = match.end()
    return found


def _reassigned(assignments: Sequence[Assignment]) -> list[Fault]:
    """Second assignments: one of the two values would be lost without a word."""
    seen: set[tuple[str, int | None]] = set()
    faults = []
    for name, index, value in assignments:
        if any(name == other and (index == place or None in (index, place)) for other, place in seen):
            faults.append(Fault(name if index is None else f"{name}[{index}]", value, "it is assigned before"))
        seen.add((name, index))
    return faults


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
            raise _settings_error(cls, [_fault(cls, item) for item in error.errors()]) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated."""
        return self.create({**self.model_dump(), **changes})

    def override(self, text: str) -> Self:
        """A copy with the overrides of `text` (see `parse_overrides`); `none` sets an optional field to None.

        Raises:
            SettingsError: with every fault at once.
        """
        return self.assign(parse_overrides(text))

    def assign(self, assignments: Sequence[Assignment]) -> Self:
        """`override` with the text already parsed."""
        values, faults = self.model_dump(), _reassigned(assignments)
        for name, index, value in assignments:
            if index is None:
                values[name] = None if value == "none" else value
                continue
            items = values.get(name)
            if name not in type(self).model_fields:
                faults.append(_unknown(type(self), name, value))
            elif not isinstance(items, list | tuple):
                faults.append(Fault(f"{name}[{index}]", value, "it is no list"))
            elif index >= len(items):
                faults.append(Fault(f"{name}[{index}]", value, f"it has {len(items)} items"))
            else:
                values[name] = [*items[:index], value, *items[index + 1 :]]
        try:
            result = self.create(values)
        except SettingsError as error:
            raise _settings_error(type(self), [*faults, *error.faults]) from None
        if faults:
            raise _settings_error(type(self), faults)
        return result

    def differences(self, other: Settings) -> dict[str, tuple[Any, Any]]:
        """Fields that differ: name -> (value here, value in `other`)."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        names = [*mine, *(name for name in theirs if name not in mine)]
        return {name: (mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)}


def _settings_error(cls: type[BaseModel], faults: list[Fault]) -> SettingsError:
    """Lists the fields if a name is like none of them."""
    lost = any(fault.problem == _NO_SUCH_FIELD and fault.nearest is None for fault in faults)
    return SettingsError(cls.__name__, faults, help=f"fields: {', '.join(cls.model_fields)}" if lost else None)


def _fault(cls: type[BaseModel], item: Any) -> Fault:
    field, value = ".".join(str(part) for part in item["loc"]), item["input"]
    if item["type"] == "extra_forbidden":
        return _unknown(cls, field, value)
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not field:  # a rule over several fields; `value` is the whole record
        return Fault(None, value, message)
    choices = re.findall(r"'([^']*)'", item["ctx"]["expected"]) if item["type"] == "literal_error" else ()
    return Fault(field, value, message, nearest(str(value), choices))


def _unknown(cls: type[BaseModel], field: str, value: Any) -> Fault:
    """With the nearest field; where the value is a number, of those that are numbers."""
    numeric = [name for name, one in cls.model_fields.items() if one.annotation in (int, float)]
    likely = nearest(field, numeric) if _is_number(value) else None
    return Fault(field, value, _NO_SUCH_FIELD, likely or nearest(field, cls.model_fields))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
