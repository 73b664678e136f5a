"""Other distributions with packages called `probes` or `toy_models` are refused by name, before anything is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mechocl.owners import other_owners, refuse_other_owners

ROOT = Path(__file__).parent.parent


def run(code: str, *paths: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Python in an empty folder, with these folders before everything else."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=home, capture_output=True, text=True, check=False
    )


COMMAND = "import sys; from mechocl.commands.cli import main; sys.exit(main(['runs', '.']))"
NAME = "import mechocl\ntry:\n    mechocl.open_run\nexcept mechocl.errors.MechoclError as e: print(e)"


def other(place: Path, *files: str, name: str = "network_probes-0.1.0") -> Path:
    """A folder with another distribution, as pip leaves it."""
    for file in files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_text("")
    record = place / f"{name}.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("".join(f"{file},sha256=x,0\n" for file in files))
    return place


@pytest.mark.parametrize("file", ["probes/__init__.py", "probes.py", "toy_models/worlds.py"])
def test_another_distribution_is_refused_by_name(tmp_path: Path, file: str) -> None:
    place = other(tmp_path / "site", file, "probes_of_mine/__init__.py")
    name = file.split("/")[0].removesuffix(".py")
    done = run(COMMAND, place, home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"mechocl: network_probes 0.1.0 also has a package called {name}, in {place}"
    )
    assert done.stderr.count("\n") == 1
    assert "python -m venv ENV" in done.stderr
    assert f"also has a package called {name}" in run(NAME, place, home=tmp_path).stdout


def test_it_is_refused_behind_ours_too(tmp_path: Path) -> None:
    """The other one is then what cannot be imported."""
    place = other(tmp_path / "site", "probes/__init__.py")
    code = f"import sys; sys.path.append({str(place)!r}); {COMMAND}"
    assert "network_probes 0.1.0 also has" in run(code, home=tmp_path).stderr


def test_a_file_of_ones_own_is_refused_if_it_hides_ours(tmp_path: Path) -> None:
    (tmp_path / "probes.py").write_text("raise SystemExit('it was imported')")
    done = run(COMMAND, tmp_path, home=tmp_path)
    assert done.returncode == 2
    assert f"import probes finds {tmp_path / 'probes.py'}, which is not mechocl's; rename it" in done.stderr
    (tmp_path / "probes.py").rename(tmp_path / "my_probes.py")
    assert run(COMMAND, tmp_path, home=tmp_path).returncode == 0


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """As it is after the other distribution was removed, and pip removed our files with it."""
    hide = "import importlib.util as u; find = u.find_spec\n"
    code = f"{hide}u.find_spec = lambda name: None if name == 'probes' else find(name)\n{COMMAND}"
    done = run(code, home=tmp_path)
    assert done.returncode == 2
    assert "the package probes, which comes with mechocl, is missing in" in done.stderr
    assert "pip install --force-reinstall --no-deps" in done.stderr


def test_nobody_else_is_found_where_nobody_is(tmp_path: Path) -> None:
    place = other(tmp_path, "probes_of_mine/__init__.py", "src/probes/__init__.py")
    other(tmp_path, "probes/__init__.py", name="mechocl-0.1.0")
    assert other_owners("probes", place) == []
    refuse_other_owners()
