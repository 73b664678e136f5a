"""Every command, every option, every kind of mistake in writing it: one line that says what, where and what to do.

The mistakes are made from the commands' own options, so a new option is walked without an edit here.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from mechocl.commands import calling, cli, examples, needs, valid_names
from mechocl.commands.arguments import Option, options_of
from mechocl.errors import MechoclError

COMMANDS = {name: cli.command_named(name) for name in cli.COMMANDS}
OPTIONS = {name: options_of(command) for name, command in COMMANDS.items()}

Mistake = tuple[list[str], str]
"""Words after the name of the command, and a pattern that the line must have."""


def typo(flag: str) -> str:
    """A flag with two letters exchanged (`--ses` for `--see`, where they are equal)."""
    at = len(flag) - 2
    return flag[:at] + flag[at + 1] + flag[at] if flag[at] != flag[at + 1] else flag[:-1]


def good_value(command: str, option: Option) -> list[str]:
    """Words that the option takes."""
    if option.takes == "nothing":
        return []
    if option.choices:
        return [option.choices[0]]
    names = valid_names.taken_by(command, option.flag)
    if names is not None:
        return [names.words()[0]]
    return ["a=1" if option.takes == "lists" else "1"]


def written(command: str, *, without: Option | None = None) -> list[str]:
    """The words that a command needs, its positional arguments first."""
    needed = [o for o in OPTIONS[command] if o.required and o is not without]
    places = sorted((o for o in needed if o.place is not None), key=lambda o: o.place or 0)
    line = [word for option in places for word in good_value(command, option)]
    for option in needed:
        if option.place is None:
            line += [option.flag, *good_value(command, option)]
    return line


def of_a_flag(command: str, option: Option) -> Iterator[Mistake]:
    """Mistakes in writing one option."""
    flag, base = option.flag, written(command, without=option)
    value = good_value(command, option)
    end = re.escape(flag)
    yield [*base, typo(flag), *value], f"no such option; did you mean --[a-z-]+\\?|is an option of .*{end}"
    yield [*base, flag.replace("--", "-"), *value], "no such option|an option of"
    if option.takes == "nothing":
        for words in ([f"{flag}=true"], [flag, "true"], [f"--no-{flag[2:]}=1"]):
            yield [*base, *words], f"{flag[2:]} takes no value; write {end} or --no-{flag[2:]}"
        yield [*base, flag, f"--no-{flag[2:]}"], f"{end} is given twice; give it once"
        yield [*base, flag, flag], f"{end} is given twice; give it once"
        return
    yield [*base, f"--no-{flag[2:]}"], "no such option; did you mean --|an option of"
    yield [*base, flag], f"{end}: the value is missing; write {end} and "
    yield [*base, flag, "--device" if flag != "--device" else "--jobs"], f"{end}: the value is missing"
    for empty in ("", " "):
        yield [*base, flag, empty], f"{end}: the value is empty; give "
        yield [*base, f"{flag}={empty}"], f"{end}: the value is empty; give "
    if option.takes != "lists":
        yield [*base, flag, *value, flag, *value], f"{end} is given twice; give it once"
    if option.choices:
        near = option.choices[-1]
        yield [*base, flag, near + "x"], f"{end} {near}x: did you mean {near}\\?"
        yield [*base, flag, "@@"], f"{end} @@: choose from {', '.join(option.choices)}"
    elif not option.fits("two"):
        yield [*base, flag, "two"], f"{end} two: give {option.value}"
        yield [*base, flag, *value, f"{flag}=two"], f"{end}"
    names = valid_names.taken_by(command, flag)
    if names is not None and not names.also:
        near = names.words()[0]
        yield [*base, flag, near + "x"], f"{end} {near}x: did you mean {near}\\?"
        yield [*base, flag, "@@"], f"{end} @@: choose from .*{near}"
    if option.kind is not bool and option.takes == "one":
        yield [*base, f"{flag}=a\udcff"], r"a\\udcff' is not UTF-8"
        yield [*base, flag, "a\0b"], "holds a zero byte"


def of_a_place(command: str, option: Option) -> Iterator[Mistake]:
    """Mistakes in writing a positional argument."""
    if option.required:
        yield written(command, without=option), f"(is missing|{option.flag}|--[a-z]+)"
        yield [], f"^{command}: (--[a-z]+|[A-Z_]+) is missing"
    yield (
        ["" if o is option else good_value(command, o)[0] for o in OPTIONS[command] if o.place is not None],
        (f"^{command} {option.flag}: the value is empty"),
    )
    if option.choices:
        yield [option.choices[0] + "x"], f"did you mean {option.choices[0]}"


def of_the_whole(command: str) -> Iterator[Mistake]:
    """Mistakes that do not lie in one option."""
    base = written(command)
    if not any(o.place is not None and o.takes != "one" for o in OPTIONS[command]):
        places = [o for o in OPTIONS[command] if o.place is not None]
        full = [good_value(command, o)[0] for o in places]
        yield [*full, "superfluous"], f"'superfluous' is one word too many; write mechocl {command}"
    own = {flag for o in OPTIONS[command] for flag in o.flags}
    others = {flag: name for name, options in OPTIONS.items() for o in options for flag in o.flags}
    for flag, name in others.items():
        if flag not in own:
            yield [*base, flag, "1"], f"^{command} {flag}: this is an option of mechocl .*\\b{name}\\b"
    for nonsense in ("--", "--=3", "---", "--@@=4", "-", "-x", "-qq"):
        yield [*base, nonsense, "--zzz"], "."


def mistakes(command: str) -> Iterator[Mistake]:
    for option in OPTIONS[command]:
        yield from of_a_flag(command, option) if option.place is None else of_a_place(command, option)
    yield from of_the_whole(command)


Refused = Callable[[list[str]], str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """The one line with which words are refused before any command is called."""

    understood = calling.bound

    def accept_nothing(name: str, *arguments: Any, **options: Any) -> None:
        understood(name, *arguments, **options)
        raise AssertionError(f"accepted: {name} {arguments[1]}")

    def line(words: list[str]) -> str:
        capsys.readouterr()
        assert cli.main(words) == 2, words
        captured = capsys.readouterr()
        assert captured.out == "", words
        assert len(captured.err.splitlines()) == 1, (words, captured.err)
        said = captured.err.strip()
        assert said.startswith("mechocl: "), said
        assert not re.search("[\u2500-\u257f]|__tyro|Traceback|dataclass|MISSING", said), said
        return said.removeprefix("mechocl: ")

    monkeypatch.setattr(calling, "bound", accept_nothing)
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_mistake_in_a_command_is_one_line(command: str, refused: Refused) -> None:
    count = 0
    for words, pattern in mistakes(command):
        said = refused([*command.split(), *words])
        assert said.startswith((f"{command} ", f"{command}:")), (words, said)
        assert re.search(pattern, said), (words, said, pattern)
        count += 1
    assert count > 20, command


def test_the_walk_is_large() -> None:
    assert sum(len(list(mistakes(command))) for command in COMMANDS) > 2000


@pytest.mark.parametrize("command", COMMANDS)
def test_a_value_that_a_config_refuses_is_named_with_its_command_and_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not `k is 0; use at least 1`, but `sae train --k 0: use at least 1`."""
    for option in OPTIONS[command]:
        if option.place is not None or option.choices or option.takes == "nothing":
            continue
        base = written(command, without=option)
        for value in filter(option.fits, ("0", "-1", "-0.5", "1", "2", "nan", "1e300", "x")):
            try:
                calling.bound(command, COMMANDS[command], [*base, option.flag, value])
            except MechoclError as refusal:
                said = str(refusal)
                assert said.startswith(f"{command} {option.flag} "), said
                assert not re.search(r"\b[a-z]+_[a-z]+ (is|must)\b|Config", said), said


def test_the_refusals_of_configs_in_words() -> None:
    for words, line in {
        "sae train RUN --site z --k 0": "sae train --k 0: use at least 1",
        "patch RUN --n-pairs -3": "patch --n-pairs -3: use at least 1",
        "train R --out X --save-every nan": "train --save-every nan: give a finite number",
    }.items():
        command = "sae train" if words.startswith("sae") else words.split()[0]
        rest = words.removeprefix(command).split()
        with pytest.raises(MechoclError, match=f"^{re.escape(line)}$"):
            calling.bound(command, COMMANDS[command], rest)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "say what to do: mechocl demo|train|"),
        ([""], "say what to do: mechocl demo|train|"),
        (["--seeds", "3"], "--seeds stands before the command; write mechocl demo|"),
        (["--hlep"], "--hlep stands before the command; did you mean --help?"),
        (["help"], "there is no command 'help'; write mechocl --help, or mechocl COMMAND --help"),
        (["@@"], "there is no command '@@'; choose from demo, train, "),
        (["sae"], "say what to do: mechocl sae train|search|test|dashboard; "),
        (["data", ""], "data has no command ''; "),
        (["sae", "--width"], "sae has no command '--width'; choose from train, search, test, dashboard"),
    ],
)
def test_words_without_a_command(words: list[str], line: str, refused: Refused) -> None:
    assert refused(words).startswith(line)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_command_is_told_the_right_one(command: str, refused: Refused) -> None:
    group, _, name = command.rpartition(" ")
    for wrong in (typo(name), name[:-1], name.upper(), f"{name}s", f"--{name}"):
        if wrong.startswith("--") and not group:
            assert "stands before the command" in refused([wrong])
        elif wrong not in cli.COMMANDS and not (group == "" and wrong in cli.GROUPS):
            said = refused([*group.split(), wrong])
            assert f"did you mean {name}?" in said, said


def test_names_may_be_written_in_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--a-b 1`, `--a_b 1` and `--a-b=1`; a list before the run; a run after `--`; a negative number."""
    calls = [
        calling.bound("patch", COMMANDS["patch"], words)
        for words in (
            ["RUN", "--n-pairs", "7", "--site", "z", "q"],
            ["RUN", "--n_pairs", "7", "--site", "z", "q"],
            ["--n-pairs=7", "--site", "z", "q", "RUN"],
            ["--n-pairs=7", "--site", "z", "q", "--", "RUN"],
        )
    ]
    assert len({repr(call) for call in calls}) == 1
    assert calls[0].keywords["config"].site == ("z", "q")
    with pytest.raises(
        MechoclError, match=r"patch: RUN is missing .* stand before options that take several words"
    ):
        calling.bound("patch", COMMANDS["patch"], ["--site", "z", "RUN", "--n-pairs", "7"])
    call = calling.bound("train", COMMANDS["train"], ["R", "--out", "X", "--first-seed", "-3"])
    assert call.keywords["seeds"].first_seed == -3
    call = calling.bound("train", COMMANDS["train"], ["R", "--out=X", "--set", "a=1", "b=2", "--set", "c=-1"])
    assert call.keywords["changes"] == (("a=1", "b=2"), ("c=-1",))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_the_help_work(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert set(examples.EXAMPLES) == set(COMMANDS)
    assert len(examples.EXAMPLES[command]) == 2
    for example in examples.EXAMPLES[command]:
        assert f"mechocl {command} {example}".rstrip() in shown
        call = calling.bound(command, COMMANDS[command], example.split())
        assert call.func is COMMANDS[command]


def test_the_help_shows_the_names_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    walked = {f"{name} {o.flag}": o for name, options in OPTIONS.items() for o in options}
    flags = {key.rpartition(" ")[2] for key in walked}
    for key in valid_names.TAKEN:
        assert key in walked if " " in key else key in flags
    for key in walked:
        command, _, flag = key.rpartition(" ")
        if names := valid_names.taken_by(command, flag):
            assert cli.main([*command.split(), "--help"]) == 0
            (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith(f"  {flag}: ")]
            assert names.words()
            assert all(word in line for word in names.words())


def beside(command: str, need: needs.Need, value: str) -> list[str]:
    """The words of the other option of a need, with one of its values; "" leaves it out."""
    (other,) = (o for o in OPTIONS[command] if o.flag == need.of)
    if value == "":
        return []
    if other.takes == "nothing":
        return [other.flag if value == "yes" else other.flags[1]]
    return [other.flag, {"more than 0": "1"}.get(value, value)]


def a_mode_without(need: needs.Need) -> list[list[str]]:
    """What is given of the other option so that the options of a need have no effect."""
    (other,) = (o for o in OPTIONS[need.command] if o.flag == need.of)
    if need.of == "--site":
        return [[], ["--site", "resid_pre"], ["--site", "blocks.0.hook_attn_out", "resid_post"]]
    if need.of == "--cache-gb":
        return [["--cache-gb", "0"]]
    if other.choices:
        return [[need.of, value] for value in other.choices if value not in need.values]
    also = ["--property", "tag", "--position", "alias"] if need.of == "--features" else []
    return [[need.of, *good_value(need.command, other), *also]]


NEEDED = [
    pytest.param(need, option, id=f"{need.command} {option.flag}")
    for need in needs.NEEDS
    for option in OPTIONS[need.command]
    if (option.flag in need.flags if need.flags else option.flag not in need.but)
]


@pytest.mark.parametrize(("need", "option"), NEEDED)
def test_an_option_without_effect_is_refused_and_the_remedies_work(
    need: needs.Need, option: Option, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it is given with the value of its default, as the user then believes that it has an effect."""
    command = need.command
    value = good_value(command, option)
    own = [*value] if option.place is not None else [option.flag, *value]
    needed = [] if need.of == "--table" else written(command)
    for mode in a_mode_without(need):
        assert cli.main([*command.split(), *needed, *own, *mode]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"mechocl: {command} {option.flag} is for "), line
        assert need.of in line
        calling.bound(command, COMMANDS[command], [*needed, *mode])  # without it
    for right in need.values:
        calling.bound(command, COMMANDS[command], [*needed, *own, *beside(command, need, right)])


WITHOUT_PAIRS = tiny.PROBE.replace('pairs = "d1-to-d2"\n', "")
CONDITIONED = {
    "probe --n-pairs": ("RUN --n-pairs 5", "--recipe {recipe}", "--recipe definition-retrieval,{recipe}"),
    "probe --regularisation": ("RUN --regularisation 1", "--recipe {recipe}", "--recipe recency"),
    "patch --seed": ("RUN --seed 1", "--pairs a.csv b.csv", "--pairs a.csv d1-to-d2"),
    "circuit --steps": ("RUN --steps 3", "--metric within_alias_auc", "--metric log_probability"),
}
"""Option → words that give it, words with which it has no effect, and others with which it has one."""


def test_every_condition_is_walked() -> None:
    assert {f"{one.command} {one.flag}" for one in needs.CONDITIONS} == set(CONDITIONED)


@pytest.mark.parametrize("key", CONDITIONED)
def test_an_option_without_effect_beside_what_others_name_is_refused(key: str, tmp_path: Path) -> None:
    (recipe := tmp_path / "plain.toml").write_text(WITHOUT_PAIRS)
    command = key.split()[0]
    own, without, beside_others = (words.format(recipe=recipe).split() for words in CONDITIONED[key])
    with pytest.raises(MechoclError, match=f"^{key} is for .*; leave it out, or give "):
        calling.bound(command, COMMANDS[command], [*own, *without])
    for right in ([*own, *beside_others], own, ["RUN", *without]):
        calling.bound(command, COMMANDS[command], right)
    if command == "patch":
        calling.bound(command, COMMANDS[command], [*own, *without, "--mode", "resample"])
