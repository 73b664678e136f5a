"""Folders and data that are wrong: SAE folders, manifests, models, data sets."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from campaign.bad_files import Prepare, Wrong, text
from campaign.worlds import NAME
from mechocl.features.dictionaries import RECORD

TAKEN_UNCHECKED: Final = (
    *("manifest recipe_name=text", "manifest machine=text", "config.json rotary_pct=x"),
    *(f"mechocl.json {change}" for change in ("held_out=0.1", "seed=", "sha256={}", "config={}")),
)
"""Values that nothing contradicts where there is no checksum: names may be any text, Hugging Face does not read rotary_pct,
and what an older version wrote of a dictionary is said to be read unchecked."""


def every() -> Iterator[Wrong]:
    checked = [*_dictionaries(), *_manifests(), *_models()]
    yield from checked
    yield from _data()
    for what, command, prepare, shown, wrong in checked:
        odd = shown.startswith(TAKEN_UNCHECKED)
        yield what, command, _unchecked(prepare), f"{shown}, without checksums", wrong and not odd


def _json_of(name: str, change: Callable[[Any], Any]) -> Prepare:
    def prepare(work: Path) -> None:
        path = work / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return prepare


def _unchecked(prepare: Prepare) -> Prepare:
    """Makes the same files without the checksums that would tell of a change, as if an older version had written them."""

    def also(work: Path) -> None:
        prepare(work)
        for path in (work / "run" / "manifest.json", *work.glob(f"run/saes/*/*/{RECORD}")):
            with contextlib.suppress(OSError, ValueError):
                path.write_text(json.dumps(_without("checksum")(json.loads(path.read_text()))))
        (work / "base" / "checksums.json").unlink(missing_ok=True)

    return also


def _with(key: str, value: Any) -> Callable[[Any], Any]:
    return lambda old: {**old, key: value}


def _without(key: str) -> Callable[[Any], Any]:
    return lambda old: {k: v for k, v in old.items() if k != key} if isinstance(old, dict) else old


def _dictionaries() -> Iterator[Wrong]:
    folder = f"run/saes/{NAME}/seed-0"
    search = ("sae", "search", "run", NAME)
    changes: list[tuple[Any, str]] = []
    for value in ({}, [], None, {"d_in": 3}, {"architecture": "nothing"}):
        changes.append((_json_of(f"{folder}/cfg.json", lambda _, v=value: v), f"cfg.json {value}"))
    for key, value in (
        ("d_in", 8),
        ("d_sae", -1),
        ("k", 1),
        ("k", 0),
        ("k", 10**9),
        ("dtype", "nothing"),
        ("architecture", "standard"),
        ("metadata", {}),
    ):
        changes.append((_json_of(f"{folder}/cfg.json", _with(key, value)), f"cfg.json {key}={value}"))
    for value in ({}, [], None, 3):
        changes.append((_json_of(f"{folder}/mechocl.json", lambda _, v=value: v), f"mechocl.json {value}"))
    for key, value in (
        ("held_out", 2.0),
        ("held_out", 0.1),
        ("seed", -1),
        ("seed", 7),
        ("checkpoint", "0" * 64),
        ("sha256", {}),
        ("config", {}),
    ):
        changes.append((_json_of(f"{folder}/mechocl.json", _with(key, value)), f"mechocl.json {key}={value}"))
    for name in ("cfg.json", "sae_weights.safetensors"):
        changes.append((lambda work, n=name: (work / folder / n).unlink(), f"without {name}"))
        changes.append((text(f"{folder}/{name}", "nothing"), f"{name} of other text"))
    yield from (("SAE folders", search, change, shown, True) for change, shown in changes)

    def own(work: Path, name: str) -> None:
        shutil.copytree(work / folder, work / "own")
        (work / "own" / name).unlink()

    for name in ("cfg.json", "sae_weights.safetensors"):
        yield (
            "SAE folders",
            ("sae", "search", "run", "own"),
            lambda work, n=name: own(work, n),
            f"own, without {name}",
            True,
        )
    for name in ("missing", "run", "tiny.toml", "\udcff", ""):
        yield "SAE folders", ("sae", "search", "run", name), lambda work: None, ascii(name), True


KEYS: Final = (
    "schema", "recipe_name", "recipe", "seeds", "device", "machine", "threads", "precision", "python", "packages", "git", "created",
    "seconds", "stacks",
)  # fmt: skip


def _manifests() -> Iterator[Wrong]:
    train = ("train", "tiny.toml", "--out", "run", "--seeds", "3")
    told = ("git", "python")  # which nobody reads
    for command in (train, ("evaluate", "run")):
        for value in ([], {}, None, 3, "text"):
            yield (
                "manifests",
                command,
                _json_of("run/manifest.json", lambda _, v=value: v),
                f"manifest {value}",
                True,
            )
        for key in KEYS:
            yield (
                "manifests",
                command,
                _json_of("run/manifest.json", _without(key)),
                f"manifest without {key}",
                key not in told,
            )
            for value in (None, -1, [], "text"):
                yield (
                    "manifests",
                    command,
                    _json_of("run/manifest.json", _with(key, value)),
                    f"manifest {key}={value}",
                    key not in told,
                )
        for key, value in (
            ("threads", 0),
            ("seeds", [0, 0]),
            ("seeds", ["0"]),
            ("seeds", [-1]),
            ("stacks", [[]]),
            ("stacks", [["0"]]),
            ("stacks", [[7]]),
            ("device", "tpu"),
            ("schema", 99),
            ("seconds", {"training": "x"}),
        ):
            yield (
                "manifests",
                command,
                _json_of("run/manifest.json", _with(key, value)),
                f"manifest {key}={value}",
                True,
            )


def _data() -> Iterator[Wrong]:
    texts: dict[str, str | bytes] = {
        "empty": "",
        "binary": bytes(range(256)),
        "text": "a,b\n1,2\n",
        "JSON": "{}",
        "a list": "[]",
        "a list of numbers": "[1]",
        "nested": "[" * 100000,
    }
    for shown, said in texts.items():
        for kind, name in (
            ("cvdb", "bad.csv"),
            ("trex", "bad.json"),
            ("cvdb", "bad.csv.gz"),
            ("cvdb", "bad.csv.xz"),
        ):
            yield "data", ("data", kind, "--check", name), text(name, said), f"{name} {shown}", True
    for name in ("missing", "run", "\udcff", ""):
        for kind in ("cvdb", "trex"):
            yield "data", ("data", kind, "--check", name), lambda work: None, ascii(name), True


def _models() -> Iterator[Wrong]:
    parity = ("parity", "base")
    for value in ({}, [], None, {"model_type": "nothing"}):
        yield (
            "models",
            parity,
            _json_of("base/config.json", lambda _, v=value: v),
            f"config.json {value}",
            True,
        )
    for key, value in (
        ("model_type", "nothing"),
        ("architectures", []),
        ("hidden_size", 8),
        ("hidden_size", -1),
        ("num_attention_heads", 0),
        ("num_hidden_layers", 3),
        ("vocab_size", 1),
        ("max_position_embeddings", 0),
        ("hidden_act", "nothing"),
        ("rotary_pct", "x"),
    ):
        yield (
            "models",
            parity,
            _json_of("base/config.json", _with(key, value)),
            f"config.json {key}={value}",
            key != "architectures",
        )
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        yield (
            "models",
            parity,
            lambda work, n=name: (work / "base" / n).unlink(),
            f"without {name}",
            name != "tokenizer.json",
        )
        yield "models", parity, text(f"base/{name}", "nothing"), f"{name} of other text", True
        yield "models", parity, text(f"base/{name}", ""), f"{name} empty", True
