"""`mechocl completion`: what it prints for each shell names every command, and completes in the shells that are here."""

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from mechocl.commands import cli, completion
from mechocl.commands.arguments import options_of

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shell → the file that the command's output was written to."""
    folder = tmp_path_factory.mktemp("completion")
    files = {}
    for shell in SHELLS:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert cli.main(["completion", shell]) == 0
        files[shell] = folder / f"mechocl.{shell}"
        files[shell].write_text(out.getvalue(), encoding="utf-8")
    return files


def specification(text: str) -> dict[str, dict[str, dict[str, object]]]:
    """The commands and options in what was printed: a literal that the shells' own Python reads."""
    line = next(one for one in text.splitlines() if "COMPLETION_SPEC = {" in one)
    found: dict[str, object] = {}
    exec(line[line.index("COMPLETION_SPEC") :], found)
    spec: dict[str, dict[str, dict[str, object]]] = found["COMPLETION_SPEC"]  # type: ignore[assignment]
    return spec


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_named(shell: str, written: dict[str, Path]) -> None:
    text = written[shell].read_text(encoding="utf-8")
    assert completion._FILES[shell][1] in text, "files are not proposed for runs"
    if shell == "fish":  # escapes what its strings would read
        for name in cli.COMMANDS:
            assert f"'{name.split()[-1]}': {{'description'" in text, name
        return
    spec = specification(text)
    for name in cli.COMMANDS:
        node: dict[str, dict[str, object]] = spec  # type: ignore[assignment]
        for part in name.split():
            node = node["subcommands"][part]  # type: ignore[assignment]
        flags = {flag for option in node["options"] for flag in option["flags"]}  # type: ignore[index]
        wanted = {flag for option in options_of(cli.command_named(name)) for flag in option.flags}
        assert wanted <= flags, name


BASH = """
source {file}
COMP_WORDS=({words} ""); COMP_WORDS[{last}]={current}; COMP_CWORD={last}; COMPREPLY=()
_tyro_mechocl; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "current", "expected"),
    [
        (["mechocl"], "sa", {"sae"}),
        (["mechocl", "sae"], "s", {"search"}),
        (["mechocl", "patch", "runs/demo", "--mode"], "z", {"zero"}),
        (["mechocl", "report"], "runs/de", set()),
    ],
)
def test_bash_completes(words: list[str], current: str, expected: set[str], written: dict[str, Path]) -> None:
    code = BASH.format(file=written["bash"], words=" ".join(words), last=len(words), current=current)
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_can_read_it(shell: str, written: dict[str, Path]) -> None:
    """Those that are installed; bash is everywhere."""
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", written[shell]], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
