"""What of a server's options a replica of Ray Serve takes; Ray is not needed."""

from __future__ import annotations

import re

import pytest

from t2tdeploy.errors import SettingsError
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.ray_options import HEEDED, REFUSED, AppOptions
from tests.policy.source import ROOT


def taken(options: str) -> ServerOptions:
    return AppOptions(bundle="bundle", cpus=3, options=options).server_options()


def test_every_option_of_a_server_is_heeded_or_refused() -> None:
    assert HEEDED | set(REFUSED) == set(ServerOptions.model_fields)
    assert not HEEDED & set(REFUSED)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_a_replica_does_not_heed_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(REFUSED[name])) as caught:
        taken(f"max_batch_size=8,{name}=1")
    assert [fault.field for fault in caught.value.faults] == [name]


def test_nobody_believes_that_tokens_are_checked() -> None:
    with pytest.raises(SettingsError) as caught:
        taken("token_file=/etc/tokens,max_requests_per_client=4")
    assert [fault.field for fault in caught.value.faults] == ["token_file", "max_requests_per_client"]
    assert "nobody would be kept out" in caught.value.message


def test_what_is_heeded_is_taken() -> None:
    options = taken("max_batch_size=8,variant=cpu-int8,aliases=[a=b],shutdown_grace_seconds=5")
    assert (options.max_batch_size, options.variant, options.aliases) == (8, "cpu-int8", ("a=b",))
    assert (options.shutdown_grace_seconds, options.threads) == (5, 3)
    with pytest.raises(SettingsError, match="max_batch_size"):
        taken("max_batch_sise=8")


def test_the_guide_names_what_is_refused() -> None:
    section = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").partition("## Ray Serve")[2]
    named = section.partition("Refused are")[2].partition("The error says")[0]
    assert set(re.findall(r"`(\w+)`", named)) == set(REFUSED)
