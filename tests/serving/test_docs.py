"""docs/serve.md says what the code does."""

from pathlib import Path

from t2tdeploy.serving.options import ServerOptions

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")


def test_every_server_option_is_documented_with_its_default() -> None:
    section = PAGE.partition("## Options of the server")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in section.splitlines() if line.startswith("| `")]
    documented = {name.strip("`"): default for name, default in rows}
    assert set(documented) == set(ServerOptions.model_fields)
    for name, field in ServerOptions.model_fields.items():
        if field.default is None:
            continue
        number = isinstance(field.default, int | float)
        assert documented[name] == (field.default or "none") if not number else float(documented[name]) == field.default


def test_python_blocks_compile() -> None:
    blocks = PAGE.split("```python\n")[1:]
    assert blocks
    for block in blocks:
        compile(block.partition("```")[0], "docs/serve.md", "exec")
