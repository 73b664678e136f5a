"""The revision of an analysis's code: what changes it, what does not, and that it covers what really runs."""

import functools
import io
import shutil
import subprocess
import sys
import token
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import CodeType

import pytest
import tiny
from contract import CONFIGS, dictionary
from traced import ROOT, SOURCES, edited_source, executed, module_of, outermost, traced, uncovered

from mechocl.analyses import crosscoder_jobs, jobs, revision
from mechocl.analyses.registry import ANALYSES
from mechocl.analyses.revision import read_source, without_prose
from mechocl.analyses.subject import open_subject
from mechocl.features.crosscoders import CrosscoderConfig
from mechocl.interventions.patching import PatchingConfig
from mechocl.runs.folders import SeedFolder
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder

Edit = Callable[..., dict[str, str]]


def revisions() -> dict[str, str]:
    revision.forget_sources()
    found = {name: analysis.follow_code(SeedFolder) for name, analysis in ANALYSES.items()}
    found[crosscoder_jobs.ANALYSIS] = crosscoder_jobs.follow_crosscoder_code(SeedFolder)
    found[TEXT] = ANALYSES["evaluate"].follow_code(TextSeedFolder)
    return {name: code.revision for name, code in found.items()}


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    return revisions()


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """The revisions with a text in one module replaced."""

    def edit(module: str, old: str, new: str) -> dict[str, str]:
        def reader(name: str) -> str:
            source = read_source(name)
            if name != module:
                return source
            assert old in source, f"{module} does not hold {old!r}"
            return source.replace(old, new, 1)

        with monkeypatch.context() as patch:
            patch.setattr(revision, "read_source", reader)
            return revisions()

    yield edit
    revision.forget_sources()


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


TEXT = "evaluate, of a closed-book run"
EVERY = {*ANALYSES, crosscoder_jobs.ANALYSIS, TEXT}
OPENS_A_RUN = {"twin-exchange", "twin-probe"}
"""Analyses that open another run, whose kind is not known beforehand: code of every kind of run counts."""


# ------------------------------------------------------------------------------------ what changes it


def test_each_analysis_has_its_own(now: dict[str, str]) -> None:
    assert len(set(now.values())) == len(EVERY)
    assert now == revisions()


@pytest.mark.parametrize(
    ("module", "old", "new", "expected"),
    [
        # what every model passes through
        ("mechocl.models.seam", "import torch\n", "import torch\nX = 1\n", EVERY),
        ("toy_models.task", "import torch\n", "import torch\nX = 1\n", EVERY),
        ("mechocl.files", "import json\n", "import json\nX = 1\n", EVERY),
        # deep below one analysis, beside the others
        ("probes.grid", "import torch\n", "import torch\nX = 1\n", {"probe"}),
        ("mechocl.interventions.circuits", "ENOUGH: Final = 0.9", "ENOUGH: Final = 0.8", {"circuit"}),
        ("mechocl.lenses.tuned_lens", "lr: float = 0.01", "lr: float = 0.02", {"tuned-lens"}),
        # what the analysis's own function says here, and in the function whose rows it reads
        ("mechocl.analyses.registry", "share=HELD_OUT,\n        seed=0", "share=HELD_OUT,\n        seed=1", {"sae-quality"}),
        ("mechocl.analyses.registry", "dictionaries.check_fits(", "dictionaries.check_fits_not(", {"sae-search", "sae-test"}),
        # what opens a seed's folder of one kind alone
        ("mechocl.runs.text_folders", 'f"stage-{number}/final"', 'f"stage-{number}/last"', {TEXT, *OPENS_A_RUN}),
        # what is imported inside a function alone
        ("mechocl.closed_book.evaluation", "TESTED: Final = (", "TESTED: Final = (1, ", {TEXT, *OPENS_A_RUN}),
        # strings and numbers deep in an expression, and a default
        ("mechocl.features.crosscoders", "seed: int = 0", "seed: int = 1", {"crosscoder"}),
    ],
)  # fmt: skip
def test_an_edit_of_code_changes_it(
    module: str, old: str, new: str, expected: set[str], now: dict[str, str], edited: Edit
) -> None:
    assert changed(now, edited(module, old, new)) == expected


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("mechocl.models.seam", '"""', '"""Another first sentence. '),
        ("mechocl.models.seam", "import torch\n", "import torch  # tensors\n\n\n# and more\n"),
        ("mechocl.lenses.logit_lens", "@torch.no_grad()\n", "# a reason\n@torch.no_grad()  # another\n"),
        (
            "mechocl.lenses.tuned_lens",
            '"""Steps of Adam; with 0 the lens is the logit lens."""',
            '"""Steps."""',
        ),
        (
            "mechocl.analyses.registry",
            '"""Compute the result of an analysis. Nothing is saved.',
            '"""What is found.',
        ),
        ("mechocl.analyses.registry", "def compute(", "X = 1\n\n\ndef compute("),
        ("mechocl.analyses.columns", "Number of the alias in the task.", "Another meaning."),
        ("mechocl.analyses.results", "import hashlib\n", "import hashlib\nX = 1\n"),
        ("mechocl.report.plots", "import ", "X = 1\nimport "),
        ("mechocl", "__version__", "X = 1; __version__"),
    ],
)
def test_an_edit_of_prose_and_of_what_computes_nothing_keeps_it(
    module: str, old: str, new: str, now: dict[str, str], edited: Edit
) -> None:
    assert edited(module, old, new) == now


def test_a_copy_of_the_packages_has_the_same_and_edited_another(now: dict[str, str], tmp_path: Path) -> None:
    """As an installed package is read: from another folder, in another process."""
    for package in revision.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from mechocl.analyses.registry import ANALYSES as a; from mechocl.runs.folders import SeedFolder as f; print(*(a[n].follow_code(f).revision for n in ('lens', 'patch')))"

    def said() -> list[str]:
        command = [sys.executable, "-c", code]
        environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert said() == [now["lens"], now["patch"]]
    path = tmp_path / "mechocl" / "interventions" / "patched_runs.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n\nX = 1\n", encoding="utf-8")
    lens, patch = said()
    assert lens == now["lens"]
    assert patch != now["patch"]


# --------------------------------------------------------------------------------- what counts as prose


def words(source: str) -> list[str]:
    """Python's own tokens, less comments, line ends and strings that are statements."""
    found: list[str] = []
    begins = True
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    layout = {token.NEWLINE, token.INDENT, token.DEDENT, token.NL, token.COMMENT, token.ENDMARKER}
    for one, after in zip(tokens, [*tokens[1:], None], strict=True):
        if one.type in layout:
            begins = begins or one.type == token.NEWLINE
            continue
        ends = after is not None and after.type in {token.NEWLINE, token.COMMENT}
        if not (one.type == token.STRING and begins and ends):
            found.append(one.string)
        begins = False
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_but_prose_is_left_out(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    left = without_prose(source)
    assert len(left) < len(source) or not source.strip()
    said = words(source)
    stripped = [
        one for one in tokenize.generate_tokens(io.StringIO(left).readline) if one.type == token.COMMENT
    ]
    assert stripped == []
    assert words(left) == said


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ('x = "# no comment"  # a comment\n', 'x = "# no comment"\n'),
        ("def f():\n    '''Doc'''\n    return 'a'\n", "def f():\n    return 'a'\n"),
        ('x = (\n    "a"\n    "b"\n)\n', 'x = (\n    "a"\n    "b"\n)\n'),
        ('class A:\n    x: int = 1\n    """Doc # of\n\n    x."""  # and\n', "class A:\n    x: int = 1\n"),
        ('x = """\n# kept\n"""\n', 'x = """\n# kept\n"""\n'),
        (r'x = "\"#"' + "\n", r'x = "\"#"' + "\n"),
        ('r"""Doc"""\nx = f"{y[\'#\']}"\n', "x = f\"{y['#']}\"\n"),
    ],
)
def test_prose_by_hand(source: str, left: str) -> None:
    assert without_prose(source).strip() == left.strip()


# --------------------------------------------------------------------------------- what really runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("trained")
    return jobs.train_run(
        folder / "run", tiny.recipe(folder), recipe_name="tiny", seeds=(0,), device="cpu", jobs=1
    )


def compute(name: str, folder: SeedFolder) -> None:
    """What an analysis does for a seed, with small settings."""
    subject = replace(
        open_subject(folder, stage=None, device="cpu"),
        dictionary=lambda name, site: dictionary(16),
        rows=lambda other, config: ANALYSES[other].compute(subject, config).rows,
        variant=lambda name: subject.after(1),
    )
    config = CONFIGS.get(name) or ANALYSES[name].config()
    if name == "patch":
        config = PatchingConfig(pairs=("d1-to-other-d2",), n_pairs=4, from_stage=1)
    ANALYSES[name].compute(subject, config)


@pytest.fixture(scope="module")
def ran(run: Run) -> Callable[[str], set[CodeType]]:
    """Our code that runs for an analysis."""
    folder = run.seed(0)
    return functools.cache(lambda name: traced(lambda: compute(name, folder)))


@pytest.mark.parametrize("name", ANALYSES)
def test_what_runs_is_covered(name: str, ran: Callable[[str], set[CodeType]]) -> None:
    found = outermost(ran(name))
    assert ("mechocl.analyses.subject", "open_subject") in found
    assert len({module for module, _ in found}) > 8
    assert uncovered(found, ANALYSES[name].follow_code(SeedFolder)) == set()


SAMPLE = 16
"""Functions of each analysis that are edited, of those that run for it."""


@pytest.mark.parametrize("name", ANALYSES)
def test_an_edit_of_any_function_that_runs_changes_it(
    name: str, ran: Callable[[str], set[CodeType]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One function at a time gets one more statement, in the module as it is read from the disk."""
    edits = [
        (module_of(code), text)
        for code in sorted(ran(name), key=lambda c: (c.co_filename, c.co_firstlineno, c.co_qualname))
        if (text := edited_source(Path(code.co_filename).read_text(encoding="utf-8"), code))
    ]
    assert len(edits) > SAMPLE
    before = ANALYSES[name].follow_code(SeedFolder).revision
    for module, text in edits[:: len(edits) // SAMPLE]:
        with monkeypatch.context() as patch:
            patch.setattr(
                revision, "read_source", lambda one, m=module, t=text: t if one == m else read_source(one)
            )
            revision.forget_sources()
            assert ANALYSES[name].follow_code(SeedFolder).revision != before, module
    revision.forget_sources()
    assert ANALYSES[name].follow_code(SeedFolder).revision == before


def test_what_runs_for_a_crosscoder_is_covered(run: Run) -> None:
    """All but its training, whose weights stand in the key, and what finds and keeps the rows."""
    config = CrosscoderConfig(
        site="blocks.0.hook_resid_post", width=24, k=4, activations=2048, batch_size=256, buffer=512
    )
    job = crosscoder_jobs.Job(str(run.path), 0, config, "stages", "cpu")
    crosscoder_jobs.crosscode_seed(job, lambda text, share: None)
    (result,) = (run.path / "results" / crosscoder_jobs.ANALYSIS).iterdir()
    shutil.rmtree(result)
    ran = executed(lambda: crosscoder_jobs.crosscode_seed(job, lambda text, share: None))
    assert ("mechocl.analyses.crosscoder_jobs", "describe_features") in ran
    keeping = {
        "mechocl.analyses.inputs",
        "mechocl.runs.run",
        "mechocl.runs.manifest",
        "mechocl.runs.kinds",
        "mechocl.runs.toy_runs",
        "mechocl.analyses.revision",
        "mechocl.analyses.rows",
    }
    finding = {"crosscode_seed", "crosscoder_name", "_checkpoints", "_named", "_trained", "_asked", "crosscoder_key", "follow_crosscoder_code"}  # fmt: skip
    left = uncovered(ran, crosscoder_jobs.follow_crosscoder_code(SeedFolder))
    left = {one for one in left if one[0] not in keeping}
    assert left <= {("mechocl.analyses.crosscoder_jobs", name) for name in finding}


def test_the_trace_can_fail(run: Run) -> None:
    folder = run.seed(0)
    ran = executed(lambda: open_subject(folder, stage=None, device="cpu"))
    known = ANALYSES["lens"].follow_code(SeedFolder)
    assert uncovered(ran, known) == set()
    less = replace(known, modules=known.modules - {"mechocl.runs.activation_cache"})
    assert {module for module, _ in uncovered(ran, less)} == {"mechocl.runs.activation_cache"}
