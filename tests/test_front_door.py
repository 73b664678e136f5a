"""The front door: `import mechocl` is cheap, and offers what a notebook needs by name."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from plotly import graph_objects

import mechocl

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def readme_block() -> str:
    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def imported(source: str) -> set[str]:
    """Modules that a source imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_importing_it_imports_nothing_that_costs() -> None:
    """Nothing but the standard library: the names are loaded when they are used."""
    code = (
        "import sys; before = set(sys.modules); import mechocl; "
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['mechocl']"


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(inspect.getsource(mechocl))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        node.module: tuple(alias.asname or "" for alias in node.names)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    assert seen == mechocl._NAMES
    assert list(seen) == sorted(seen)


@pytest.mark.parametrize("name", mechocl._HOME)
def test_every_name_leads_to_what_it_says(name: str) -> None:
    home = mechocl._HOME[name]
    if home == "mechocl.report":
        assert getattr(mechocl, name) is importlib.import_module(f"{home}.{name}")
    else:
        found = getattr(mechocl, name)
        own = getattr(importlib.import_module(home), name)
        # a function is behind the door's check of arguments (`mechocl.accepted.checked`)
        assert (found.__wrapped__ if inspect.isfunction(own) else found) is own
        assert found.__module__ == home
        assert inspect.getdoc(found)
    assert name in dir(mechocl)


def test_no_name_hides_a_wing() -> None:
    wings = {path.stem for path in (ROOT / "mechocl").iterdir() if not path.name.startswith("_")}
    assert not wings & set(mechocl._HOME)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="mechocl has no 'patch_everything'"):
        _ = mechocl.patch_everything  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="mechocl has no 'openrun'; did you mean open_run"):
        _ = mechocl.openrun  # type: ignore[attr-defined]


def test_what_is_offered_is_listed_once_and_alone() -> None:
    listed = [name for name in dir(mechocl) if not name.startswith("__")]
    assert listed == sorted(mechocl._HOME)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_one_module_of_ours(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    ours = {name for name in imported(source) if name.split(".")[0] in ("mechocl", "toy_models", "probes")}
    assert ours == {"mechocl"}


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small run in the place of the demo's."""
    assert imported(readme_block()) == {"mechocl"}
    run = mechocl.train(str(tiny.recipe_file(tmp_path)), tmp_path / "runs" / "demo", device="cpu")
    assert run.seeds == (0,)
    shown: list[graph_objects.Figure] = []
    monkeypatch.setattr(graph_objects.Figure, "show", lambda figure: shown.append(figure))
    monkeypatch.chdir(tmp_path)
    exec(compile(readme_block(), "README.md", "exec"), {})
    (figure,) = shown
    assert figure.data


def test_training_a_run_that_is_there_opens_it(tmp_path: Path) -> None:
    recipe = str(tiny.recipe_file(tmp_path))
    first = mechocl.train(
        recipe, tmp_path / "run", seeds=[3], changes=["task.test_questions=6"], device="cpu"
    )
    weights = first.seed(3).final().sha256
    again = mechocl.train(
        recipe, tmp_path / "run", seeds=[3], changes=["task.test_questions=6"], device="cpu"
    )
    assert again.seeds == (3,)
    assert again.recipe.task.test_questions == 6
    assert again.seed(3).final().sha256 == weights
    seed = mechocl.open_run(str(tmp_path / "run")).seed(3)
    assert seed.model is seed.model
    assert mechocl.per_alias(seed.model, seed.task).equals(
        mechocl.analyse_run(again, "evaluate").drop(columns="seed")
    )
    with pytest.raises(mechocl.MechoclError, match="there is no analysis 'lense'; there are evaluate"):
        mechocl.analyse_run(again, "lense")
    with pytest.raises(mechocl.MechoclError, match="holds a run of another recipe"):
        mechocl.train(recipe, tmp_path / "run", seeds=[3], device="cpu")
