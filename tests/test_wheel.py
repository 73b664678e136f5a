"""The wheel: it holds every file of the three packages, and is all that a user needs to have."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from empty_environment import EmptyEnvironment

ROOT = Path(__file__).parent.parent
PACKAGES = ("mechocl", "probes", "toy_models")
NOTEBOOK = min((ROOT / "notebooks").glob("01_*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

EXECUTE = """
import sys, nbformat, nbclient, mechocl
assert "site-packages" in mechocl.__file__, mechocl.__file__
book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=1200, resources={"metadata": {"path": "."}}).execute()
print(sum(len(cell.get("outputs", ())) for cell in book.cells))
"""


def tracked() -> list[str]:
    """Files of the packages that git knows, or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *PACKAGES]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in listed if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `make dist` builds by way of the sdist, of a copy of the tracked files."""
    folder = tmp_path_factory.mktemp("project")
    for name in (*tracked(), "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (folder / "dist").glob("*.whl")
    assert len(list((folder / "dist").glob("*.tar.gz"))) == 1
    return found


def test_the_wheel_has_every_tracked_file_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == set(tracked())
    assert {Path(name).suffix for name in inside} >= {".py", ".toml", ".j2", ".js", ".css", ".typed"}


def test_the_wheel_says_what_pyproject_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        said = message_from_bytes(archive.read(path))
    urls = dict(str(one).split(", ", 1) for one in said.get_all("Project-URL") or ())
    assert urls == PROJECT["urls"]
    assert said.get_all("Classifier") == PROJECT["classifiers"]
    assert said["Description-Content-Type"].startswith("text/markdown")
    assert len([one for one in said.get_all("Requires-Dist") or () if "extra ==" not in one]) == len(
        PROJECT["dependencies"]
    )


def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The smoke test of the demo with what the wheel requires and nothing else, then a notebook with the extra `notebooks`."""
    home = tmp_path / "home"
    home.mkdir()
    environment = EmptyEnvironment(tmp_path / "venv")
    environment.install(wheel)
    linked = environment.link(PROJECT["dependencies"])
    assert "ray" not in linked
    assert "pytest" not in linked
    environment.run("mechocl", "demo", "--fast", "--out", "demo", "--device", "cpu", "--jobs", "1", cwd=home)
    assert (home / "demo" / "report.html").stat().st_size > 100_000
    for package in PACKAGES:
        found = environment.run(
            environment.python, "-c", f"import {package}; print({package}.__file__)", cwd=home
        )
        assert Path(found.stdout.strip()).is_relative_to(environment.packages)
    environment.link([*PROJECT["optional-dependencies"]["notebooks"], "nbclient"])
    shutil.copy(NOTEBOOK, home)
    done = environment.run(environment.python, "-c", EXECUTE, NOTEBOOK.name, cwd=home)
    assert int(done.stdout.split()[-1]) >= 3
