"""The words of a command line: which option each belongs to, and one line for whatever is wrong with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from mechocl.commands.arguments import Option
from mechocl.errors import MechoclError, suggested

_YES_OR_NO: Final = ("true", "false", "yes", "no", "on", "off", "0", "1")


@dataclass(frozen=True, slots=True)
class Given:
    """What the user wrote, option by option."""

    words: dict[str, list[list[str]]]
    """Flag, or name of a positional argument → the words of each time that it was given. A switch that is turned off has
    the word "no"."""

    def canonical(self, options: Sequence[Option]) -> list[str]:
        """The same as a command line in which every word's place is plain: positional arguments, then options."""
        placed = sorted((o for o in options if o.place is not None), key=lambda option: option.place or 0)
        line = [word for option in placed for words in self.words.get(option.flag, ()) for word in words]
        for option in options:
            for words in self.words.get(option.flag, ()) if option.place is None else ():
                if option.takes == "nothing":
                    line.append(option.flags[1] if words == ["no"] else option.flag)
                elif option.takes == "one":
                    line.append(f"{option.flag}={words[0]}")
                else:
                    line += [option.flag, *words]
        return line


@dataclass
class _Reader:
    """Reads the words of one command from left to right."""

    command: str
    options: Sequence[Option]
    elsewhere: Callable[[str], Sequence[str]]
    left: list[str]
    given: dict[str, list[list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.named = {flag: option for option in self.options for flag in option.flags}
        placed = [option for option in self.options if option.place is not None]
        self.waiting = sorted(placed, key=lambda option: option.place or 0)

    def read(self) -> Given:
        only_places = False
        while self.left:
            word = self.left.pop(0)
            if word == "--" and not only_places:
                only_places = True
            elif not only_places and _looks_like_an_option(word):
                self._option(word)
            else:
                self.left.insert(0, word)
                self._place(only_places)
        for option in self.options:
            if option.required and option.flag not in self.given:
                raise MechoclError(
                    f"{self.command}: {option.flag} is missing ({option.value}); {self._hint(option)}"
                )
        return Given(self.given)

    def _hint(self, missing: Option) -> str:
        """What to do about a missing argument."""
        greedy = any(o.takes in ("many", "lists") and o.flag in self.given for o in self.options)
        if missing.place is not None and greedy:
            return f"let {missing.flag} stand before options that take several words"
        return f"`mechocl {self.command} --help` has examples"

    def _option(self, word: str) -> None:
        name, equals, value = word.partition("=")
        name = "--" + name.removeprefix("--").replace("_", "-") if name.startswith("--") else name
        option = self.named.get(name)
        if option is None:
            raise MechoclError(f"{self.command} {name}: {self._no_such(name)}")
        if option.flag in self.given and option.takes != "lists":
            raise MechoclError(f"{self.command} {option.flag} is given twice; give it once")
        if option.takes == "nothing":
            follows = self.left[0].lower() if self.left else ""
            if equals or follows in _YES_OR_NO:
                raise MechoclError(
                    f"{self.command} {name} takes no value; write {option.flags[0]} or {option.flags[1]}"
                )
            words = ["no" if name == option.flags[1] else "yes"]
        elif equals:
            words = [value]
        else:
            words = self._values(option)
        self._add(option, words)

    def _values(self, option: Option, *, only_places: bool = False) -> list[str]:
        """Take the words that follow an option, or those of a positional argument that takes several."""
        kept = sum(one.required for one in self.waiting if one is not option)
        words: list[str] = []
        while self.left and (only_places or not _looks_like_an_option(self.left[0], option)):
            if option.takes in ("many", "lists") and len(self.left) <= kept:
                break  # the last words are those of positional arguments that must be given
            words.append(self.left.pop(0))
            if option.takes == "one":
                break
        return words

    def _place(self, only_places: bool) -> None:
        """Give the next word, or words, to the next positional argument."""
        if not self.waiting:
            takes = " ".join([self.command, *(option.flag for option in self.options if not option.flags)])
            raise MechoclError(
                f"{self.command}: {self.left[0]!r} is one word too many; write mechocl {takes} and then options, with "
                "quotes around a word that has spaces"
            )
        option = self.waiting.pop(0)
        self._add(option, self._values(option, only_places=only_places))

    def _add(self, option: Option, words: list[str]) -> None:
        where = f"{self.command} {option.flag}"
        if not words:
            wanted = f"one of {', '.join(option.choices)}" if option.choices else option.value
            raise MechoclError(f"{where}: the value is missing; write {option.flag} and {wanted}")
        for word in words:
            if not word.strip():
                optional = "" if option.required else f", or leave {option.flag} out"
                raise MechoclError(f"{where}: the value is empty; give {option.value}{optional}")
            if option.takes != "nothing" and not option.fits(word):
                remedy = suggested(word, option.choices) if option.choices else f"give {option.value}"
                raise MechoclError(f"{where} {word}: {remedy}")
        self.given.setdefault(option.flag, []).append(words)

    def _no_such(self, name: str) -> str:
        own = list(self.named)
        if others := self.elsewhere(name):
            return (
                f"this is an option of mechocl {', '.join(others)}; `mechocl {self.command} --help` shows those of "
                f"{self.command}"
            )
        return f"there is no such option; {suggested(name, own or ['--help'])}"


def read_words(
    command: str,
    options: Sequence[Option],
    words: Sequence[str],
    *,
    elsewhere: Callable[[str], Sequence[str]] = lambda flag: (),
) -> Given:
    """The words of a command line, option by option.

    `elsewhere` says which other commands have an option. Raises MechoclError, of one line that names the command, the
    option and what to write, for the first mistake from the left.
    """
    for word in words:
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise MechoclError(
                f"{command}: {word!r} is not UTF-8; rename it, and write it in UTF-8"
            ) from None
        if "\0" in word:
            raise MechoclError(f"{command}: {word!r} holds a zero byte; leave it out")
    return _Reader(command, options, elsewhere, list(words)).read()


def _looks_like_an_option(word: str, option: Option | None = None) -> bool:
    """Whether a word begins an option, and is not a negative number or one of the values of `option`."""
    if not word.startswith("-") or word == "-" or (option and word in option.choices):
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False
