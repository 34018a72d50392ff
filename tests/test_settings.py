"""The override grammar of Tensor2Tensor, and settings that say all that is wrong with them at once."""

from __future__ import annotations

import contextlib
from typing import Any, Literal, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from t2tdeploy.errors import SettingsError
from t2tdeploy.settings import Settings, parse_overrides


class Sizes(Settings):
    """Every kind of field."""

    width: int = Field(8, ge=1)
    rate: float = Field(0.5, lt=1000)
    fast: bool = False
    title: str = "plain"
    layers: tuple[int, ...] = (1, 2, 3)
    names: tuple[str, ...] = ()
    limit: float | None = 1.0
    kind: Literal["adam", "sgd", "momentum"] = "adam"

    @model_validator(mode="after")
    def _even(self) -> Self:
        if self.width == 13:
            raise ValueError("width = 13 brings bad luck")
        return self


def faults(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Sizes().override(text)
    return [str(fault) for fault in caught.value.faults]


WORDS = st.text(st.characters(exclude_characters=",[]", exclude_categories=["Cs"]), max_size=12).map(str.strip)
TITLES = WORDS.filter(lambda word: word != "none")
FLOATS = st.floats(max_value=999, allow_nan=False, allow_infinity=False)
INTS = st.integers(-(10**6), 10**6)


def printed(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "width": st.integers(1, 10**6).filter(lambda width: width != 13),
            "rate": FLOATS,
            "fast": st.booleans(),
            "title": TITLES,
            "layers": st.lists(INTS, max_size=4).map(tuple),
            "names": st.lists(WORDS.filter(bool), max_size=4).map(tuple),
            "limit": st.one_of(st.just("none"), FLOATS),
            "kind": st.sampled_from(["adam", "sgd", "momentum"]),
        },
    ),
    st.sampled_from(["", " "]),
)
@settings(max_examples=200)
def test_what_is_printed_is_read_back(values: dict[str, Any], blank: str) -> None:
    text = f"{blank},{blank}".join(f"{name}{blank}={blank}{printed(value)}" for name, value in values.items())
    wanted = {name: None if value == "none" else value for name, value in values.items()}
    assert Sizes().override(text) == Sizes().replace(**wanted)


@given(st.lists(INTS, min_size=1, max_size=5), st.data())
def test_an_index_changes_one_item(layers: list[int], data: st.DataObject) -> None:
    index, value = data.draw(st.integers(0, len(layers) - 1)), data.draw(INTS)
    changed = Sizes(layers=tuple(layers)).override(f"layers[{index}]={value}")
    assert list(changed.layers) == [*layers[:index], value, *layers[index + 1 :]]


@given(st.text(alphabet="abwidth=[],0123 .\n", max_size=20))
def test_any_text_is_read_or_refused_with_a_settings_error(text: str) -> None:
    with contextlib.suppress(SettingsError):
        assert isinstance(Sizes().override(text), Sizes)


def test_the_grammar() -> None:
    assert parse_overrides("a=1,b=[2, x],c[0]=4,d=") == [
        ("a", None, "1"),
        ("b", None, ["2", "x"]),
        ("c", 0, "4"),
        ("d", None, ""),
    ]
    assert parse_overrides("") == []
    assert parse_overrides("a=1,") == [("a", None, "1")]
    assert parse_overrides("a=b=c") == [("a", None, "b=c")]


def test_items_are_assigned_one_by_one() -> None:
    assert Sizes().override("layers[2]=7,layers[1]=9") == Sizes(layers=(1, 9, 7))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("width=1,rate=1,width=1", "width"),
        ("layers[1]=9,layers[1]=9", "layers[1]"),
        ("layers=[7,8],layers[1]=9", "layers[1]"),
        ("layers[1]=9,layers=[7,8]", "layers"),
    ],
)
def test_a_second_assignment_is_a_fault(text: str, name: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith(f"{name} = ")
    assert "assigned before" in fault


def test_values_get_the_type_of_their_field() -> None:
    changed = Sizes().override("title=12,width=12,rate=12,fast=1,limit=12,layers=[12],names=[12]")
    assert repr(changed) == repr(
        Sizes(title="12", width=12, rate=12.0, fast=True, limit=12.0, layers=(12,), names=("12",))
    )


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("width", "width"),
        ("width 3", "width 3"),
        ("=3", "=3"),
        ("width=3,,rate=1", ",rate=1"),
        ("width=3,rate", "rate"),
        ("layers=[1,2", "layers=[1,2"),
        ("layers=1]", "layers=1]"),
        ("layers=[[1],[2]]", "layers=[[1],[2]]"),
        ("layers[x]=1", "layers[x]=1"),
        ("layers[-1]=1", "layers[-1]=1"),
        ("3d=1", "3d=1"),
    ],
)
def test_a_malformed_piece_is_quoted_with_the_grammar(text: str, piece: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Sizes().override(text)
    assert f"'{piece}' is not of the form" in str(caught.value)
    assert caught.value.help == "write overrides as a=1,b=[2,3],c[0]=4"


def test_every_fault_is_told_at_once() -> None:
    found = faults("widht=3,rate=fast,layers[7]=1,width[0]=1,layers=[1,x],colour[0]=red,kind=sdg,width=0")
    assert len(found) == 10
    for words in (
        "layers = ['1', 'x']: it is assigned before",
        "width = '0': it is assigned before",
        "widht = '3': no such field (did you mean 'width'?)",
        "rate = 'fast': input should be a valid number",
        "layers[7] = '1': it has 3 items",
        "width[0] = '1': it is no list",
        "layers.1 = 'x': input should be a valid integer",
        "colour = 'red': no such field",
        "kind = 'sdg': input should be 'adam', 'sgd' or 'momentum' (did you mean 'sgd'?)",
        "width = '0': input should be greater than or equal to 1",
    ):
        assert any(fault.startswith(words) for fault in found), (words, found)


class Rates(Settings):
    learning_rate_plan: str = Field("constant", description="how")
    learning_rate_constant: float = Field(1.0, description="how much")


@pytest.mark.parametrize(
    ("text", "near"), [("learning_rate=0.1", "learning_rate_constant"), ("learning_rate=linear", "learning_rate_plan")]
)
def test_an_unknown_name_with_a_number_is_nearest_to_a_number(text: str, near: str) -> None:
    with pytest.raises(SettingsError, match=f"did you mean '{near}'"):
        Rates().override(text)


def test_a_name_that_is_like_no_field_lists_the_fields() -> None:
    with pytest.raises(SettingsError) as caught:
        Sizes().override("colour=red")
    assert caught.value.help == f"fields: {', '.join(Sizes.model_fields)}"
    with pytest.raises(SettingsError) as caught:
        Sizes().override("widht=3")
    assert caught.value.help is None


@pytest.mark.parametrize(
    "text", ["kind=xyz", "kind=none", "width=none", "rate=nan", "rate=inf", "fast=maybe", "width="]
)
def test_values_out_of_their_domain_are_refused(text: str) -> None:
    name = text.partition("=")[0]
    assert [fault.partition(" ")[0] for fault in faults(text)] == [name]
    assert "did you mean" not in str(faults(text))


def test_a_rule_over_several_fields_speaks_for_itself() -> None:
    assert faults("width=13") == ["width = 13 brings bad luck"]


def test_none_is_for_optional_fields() -> None:
    assert Sizes().override("limit=none").limit is None
    assert faults("rate=none") == ["rate = None: input should be a valid number"]


def test_settings_do_not_change() -> None:
    sizes = Sizes()
    with pytest.raises(ValidationError, match="frozen"):
        sizes.width = 3  # type: ignore[misc]
    assert sizes.override("width=3") == sizes.replace(width=3) == Sizes(width=3)
    assert sizes == Sizes()


def test_differences_are_those_of_the_values() -> None:
    other = Sizes(width=3, limit=None, layers=(1,))
    assert Sizes().differences(other) == {"width": (8, 3), "limit": (1.0, None), "layers": ([1, 2, 3], [1])}
    assert other.differences(other) == {}


def test_differences_cover_fields_that_only_one_has() -> None:
    class More(Settings):
        width: int = 8
        extra: int = 1

    found = Sizes().differences(More())
    assert found["extra"] == (None, 1)
    assert found["rate"] == (0.5, None)
    assert "width" not in found
