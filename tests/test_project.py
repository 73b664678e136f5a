"""The project as a whole: imports, documents, and what they name."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mechocl.cli import COMMANDS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
HEAVY = ("ray", "sae_lens", "plotly", "circuitsvis", "wandb", "transformer_lens")


def test_importing_the_package_is_cheap() -> None:
    """No heavy package comes along, and no folder is made."""
    code = f"import sys, mechocl; print([m for m in {HEAVY} if m in sys.modules], 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("]")[0] == "[", out
    assert "False" in out


def test_the_command_line_imports_no_heavy_package() -> None:
    code = f"import sys, mechocl.cli; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_paths_and_commands_that_documents_name_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
    for path in re.findall(
        r"`((?:docs|notebooks|benchmarks|tests|mechocl|toy_models|probes|tools)/[\w./-]*)`", text
    ):
        assert (ROOT / path).exists(), f"{document.name} names {path}"
    for command in re.findall(r"mechocl ([a-z]+)", " ".join(re.findall(r"`([^`]+)`", text))):
        assert command in COMMANDS, f"{document.name} names `mechocl {command}`"
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`| {4})make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document.name} names `make {target}`"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_results_in_the_documents_come_from_the_committed_tables() -> None:
    script = _load(ROOT / "docs" / "results_doc.py")
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == script.page()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == script.readme(readme)


def test_notebooks_are_short() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert len(json.loads(path.read_text())["cells"]) <= 15
        assert path.stat().st_size <= 50_000


def test_an_old_python_gets_a_clear_line() -> None:
    """The installer is parsed by old interpreters, and stops with one line and exit code 2."""
    source = (ROOT / "tools" / "install.py").read_text()
    fake = "import sys; sys.version_info = (3, 8, 1); sys.argv = ['install.py']\n" + source
    done = subprocess.run([sys.executable, "-c", fake], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Python 3.11 or newer" in done.stderr


def test_a_full_disk_gets_a_clear_line(tmp_path: Path) -> None:
    source = (
        (ROOT / "tools" / "install.py")
        .read_text()
        .replace("os.path.abspath(__file__)", repr(str(tmp_path / "a" / "b")))
    )
    (tmp_path / "a").mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    source = source.replace("NEEDED_GIB = 4", "NEEDED_GIB = 10**9")
    done = subprocess.run(
        [sys.executable, "-c", source, "dev"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "make room" in done.stderr
