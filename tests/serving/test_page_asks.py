"""What the page asks a server for translations, run by Node.js without a browser; skipped where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from t2tdeploy.decoding import NO_CONTROLS
from t2tdeploy.errors import RequestError
from t2tdeploy.manifest import DecodeDefaults
from t2tdeploy.search_inputs import require_fixed
from t2tdeploy.serving.page import page_files
from t2tdeploy.serving.status import status_of

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")

ASK = """
import { translation } from "./ui/translation.js";
const [options, wishes, refusals] = JSON.parse(process.argv[2]);
const asked = [];
globalThis.fetch = async (url, { body }) => {
  const sent = JSON.parse(body).options;
  asked.push(sent);
  const name = Object.keys(refusals).find((name) => name in sent && sent[name] !== 1);
  const answer = name ? { error: refusals[name] } : { translations: [] };
  return { ok: !name, status: name ? 400 : 200, statusText: "", text: async () => JSON.stringify(answer) };
};
const ends = await translation.ask({ sources: ["a"], options }, undefined, {}, wishes).catch((error) => error);
console.log(JSON.stringify({ asked, refused: ends.refused, error: ends.refused ? undefined : ends.message }));
"""


def said(error: RequestError) -> str:
    return status_of(error).message


def fixed(beam_size: int, num_hypotheses: int) -> str:
    """What a server says where the search of a variant has been fixed."""
    own = DecodeDefaults(beam_size=4, alpha=0.6, extra_length=1, max_source_length=50)
    with pytest.raises(RequestError) as caught:
        require_fixed(own, beam_size, 0.6, num_hypotheses, NO_CONTROLS)
    return said(caught.value)


def asking(folder: Path, options: dict[str, Any], refusals: dict[str, str]) -> dict[str, Any]:
    """What the page sends, one request after another, and how that ends."""
    (folder / "ui").mkdir()
    for name, asset in page_files().items():
        (folder / "ui" / name).write_bytes(asset.content)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "ask.js").write_text(ASK)
    words = json.dumps([options, {"num_hypotheses": 3}, refusals])
    done = subprocess.run([str(NODE), folder / "ask.js", words], capture_output=True, text=True, check=True, timeout=60)
    return dict(json.loads(done.stdout))


def test_a_search_of_fixed_sizes_is_asked_for_one_hypothesis(tmp_path: Path) -> None:
    refusals = {"num_hypotheses": fixed(4, 3), "return_attention": said(RequestError("options.return_attention", "no"))}
    found = asking(tmp_path, {"alpha": 0.6}, refusals)
    assert found["asked"] == [
        {"num_hypotheses": 3, "return_attention": True, "alpha": 0.6},
        {"return_attention": True, "alpha": 0.6},
        {"alpha": 0.6},
    ]
    assert [one["name"] for one in found["refused"]] == ["num_hypotheses", "return_attention"]
    assert "fixed when it was made" in found["refused"][0]["why"]


@pytest.mark.parametrize("options", [{"num_hypotheses": 2}, {"beam_size": 2}])
def test_what_somebody_typed_is_never_left_out(tmp_path: Path, options: dict[str, int]) -> None:
    refusals = {name: fixed(**{"beam_size": 4, "num_hypotheses": 1, **options}) for name in options}
    found = asking(tmp_path, options, refusals)
    assert len(found["asked"]) == 1
    assert "is asked for; the search of this variant" in found["error"]


def test_a_server_that_refuses_nothing_is_asked_once(tmp_path: Path) -> None:
    found = asking(tmp_path, {}, {})
    assert found["asked"] == [{"num_hypotheses": 3, "return_attention": True}]
    assert found["refused"] == []
