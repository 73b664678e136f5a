"""The project as a whole: imports, documents, and what they name."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs.write import reliability, results, scale, toolbox
from mechocl.commands.cli import COMMANDS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
HEAVY = ("ray", "sae_lens", "plotly", "wandb", "transformer_lens")


def test_importing_the_package_is_cheap() -> None:
    """No heavy package comes along, and no folder is made."""
    code = f"import sys, mechocl; print([m for m in {HEAVY} if m in sys.modules], 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("]")[0] == "[", out
    assert "False" in out


def test_the_command_line_imports_no_heavy_package() -> None:
    code = f"import sys, mechocl.commands.cli; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_paths_and_commands_that_documents_name_exist(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
    for path in re.findall(
        r"`((?:docs|notebooks|benchmarks|tests|mechocl|toy_models|probes|tools)/[\w./-]*)`", text
    ):
        if not re.search("NAME|WING|WHAT", path):  # what the reader fills in
            assert (ROOT / path).exists(), f"{document.name} names {path}"
    for command in re.findall(r"mechocl ([a-z]+)", "\n".join(re.findall(r"`([^`]+)`", text))):
        assert command in {name.split()[0] for name in COMMANDS}, f"{document.name} names `mechocl {command}`"
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`| {4})make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document.name} names `make {target}`"


def test_the_table_of_commands_has_every_command() -> None:
    table = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8").split("## ")[0]
    rows = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| `mechocl")]
    named = " ".join(f"`{words} " for row in rows for words in re.findall(r"`(?:mechocl )?([^`]+)`", row))
    assert [name for name in COMMANDS if f"`{name} " not in named] == []


def test_documents_name_every_wing() -> None:
    """The list and the drawing of docs/design.md have each wing, and the import contract has it on a floor."""
    wings = {path.parent.name for path in (ROOT / "mechocl").glob("*/__init__.py")}
    assert len(wings) >= 11
    drawn = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    listed = drawn.split("## Where things are")[1].split("\n## ")[0]
    assert set(re.findall(r"^ {8}([a-z_]+)/ ", listed, re.MULTILINE)) == wings
    assert {name for name in wings if f'["{name}<br/>' in drawn} == wings
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    floors = {name for layer in contract["layers"] for name in layer.split(" | ")}
    assert wings <= floors


def test_results_in_the_documents_come_from_the_committed_tables() -> None:
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == results.write_page()
    assert (ROOT / "docs" / "toolbox.md").read_text(encoding="utf-8") == toolbox.write_page()
    assert (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8") == reliability.write_page()
    on_scale = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert on_scale == scale.write_page(on_scale)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == results.write_readme(readme)


@pytest.mark.parametrize("target", ["studies", "results-doc", "benchmarks"])
def test_modules_that_the_makefile_runs_exist(target: str) -> None:
    recipe = (ROOT / "Makefile").read_text().split(f"\n{target}:\n")[1].split("\n\n")[0]
    modules = re.findall(r"-m (docs\.write\.\w+)", recipe)
    assert modules
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def _install(folder: Path, old: str, new: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the installer, with one thing changed, in an otherwise empty project."""
    source = (ROOT / "tools" / "install.py").read_text()
    assert old in source
    (folder / "tools").mkdir()
    (folder / "tools" / "install.py").write_text(source.replace(old, new))
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).write_text((ROOT / name).read_text())
    command = [sys.executable, str(folder / "tools" / "install.py"), "dev"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sys.version_info < (3, 11)", "sys.version_info < (9, 0)", "Python 3.11 or newer"),
        ("NEEDED_GIB = 4", "NEEDED_GIB = 10**9", "make room first"),
    ],
)
def test_what_the_installer_cannot_do_gets_one_clear_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    done = _install(tmp_path, old, new)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / ".venv").exists()
