"""Training dictionaries: against known ones, on a task's own activations, the same for a seed."""

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tiny
import torch
from planted import Mechanism, planted_model, small_task
from sae_lens import SAE
from torch import Tensor

from mechocl.analyses import jobs, sae_jobs
from mechocl.errors import MechoclError
from mechocl.features import dictionaries, quality, stream, training
from mechocl.features.settings import Architecture, TrainingConfig
from mechocl.features.stream import Mix, Stream
from mechocl.features.training import Wanted
from mechocl.runs.run import Run
from toy_models.task import ROLE

SITE = "blocks.0.hook_resid_post"
NO_ALIAS = np.zeros(360, dtype=bool)


# ------------------------------------------------------------------------------------ ground truth


def true_dictionary(n: int = 32, d: int = 20, seed: int = 0) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=-1, keepdim=True)


def sparse(n: int, batch: int, draws: torch.Generator) -> Tensor:
    """Codes with two active features on average, of magnitude about 1."""
    on = torch.rand(batch, n, generator=draws) < 2 / n
    return on * (1 + 0.3 * torch.randn(batch, n, generator=draws)).abs()


def synthetic(rows: Tensor, out: Tensor | None = None) -> Iterator[dict[str, Tensor]]:
    """Activations made of a known dictionary; `out`: what the same codes write elsewhere. Not of unit scale."""
    draws = torch.Generator().manual_seed(1)
    while True:
        code = sparse(len(rows), 512, draws)
        batch = {"in": 7 * code @ rows}
        yield batch | ({} if out is None else {"out": 0.1 * code @ out + 0.2})


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "jumprelu", "transcoder"])
def test_a_known_dictionary_is_found(architecture: Architecture) -> None:
    rows = true_dictionary()
    out = true_dictionary(d=24, seed=5) if architecture == "transcoder" else None
    config = TrainingConfig(
        width=(64,), k=3, architecture=architecture, activations=512 * 600, batch_size=512, learning_rate=5e-3
    )
    wanted = {"x": Wanted(read="in", write="in" if out is None else "out", width=64, number=0)}
    sae = training.fit(synthetic(rows, out), wanted, config)["x"]
    best = quality.cosines(rows if out is None else out, sae.W_dec.detach()).amax(1)
    if (
        architecture == "matryoshka"
    ):  # its first levels stand for several features each: that is what they are for
        assert best.mean() >= 0.8
    else:
        assert best.mean() >= 0.9
        assert (best > 0.9).float().mean() >= 0.9
    # in the units of the data: scales of training are folded in, decoder rows have norm 1
    batch = next(synthetic(rows, out))
    x, y = batch["in"], batch["in" if out is None else "out"]
    with torch.no_grad():
        off = (sae(x) - y).square().sum() / (y - y.mean(0)).square().sum()
    assert off < 0.15
    assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(64), atol=1e-4)


# ------------------------------------------------------------------------------------ the stream


def model_and_task() -> tuple[Any, Any]:
    task = small_task()
    return planted_model(task, Mechanism(name_dims=4)), task


def batches(n: int, **options: Any) -> list[dict[str, Tensor]]:
    model, task = model_and_task()
    mix = options.pop("mix", Mix(questions=0.7))
    without = options.pop("without", NO_ALIAS)
    defaults: dict[str, Any] = {"roles": mix.roles, "batch_size": 64, "buffer": 256, "seed": 0}
    made = Stream(
        [model],
        task,
        ["blocks.0.hook_resid_pre"],
        weight=stream.weights(task, mix, without=without),
        **(defaults | options),
    )
    return [next(made) for _ in range(n)]


def kinds(found: list[dict[str, Tensor]]) -> dict[str, float]:
    """Share of the tokens that are aliases, =, list integers, of the embeddings that the planted model has."""
    model, task = model_and_task()
    x = torch.cat([batch["blocks.0.hook_resid_pre"] for batch in found])
    distance = torch.cdist(x, model.W_E.detach())
    token = distance.argmin(1)
    role = torch.zeros(len(task.vocabulary), dtype=torch.long)
    role[task.tokens] = task.roles
    return {name: float((role[token] == index).float().mean()) for name, index in ROLE.items()}


def test_batches_are_of_the_asked_size_and_the_same_for_a_seed() -> None:
    first, again, other = batches(20), batches(20), batches(20, seed=1)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["blocks.0.hook_resid_pre"], b["blocks.0.hook_resid_pre"])
        assert a["blocks.0.hook_resid_pre"].shape[0] == 64
    assert not torch.equal(first[0]["blocks.0.hook_resid_pre"], other[0]["blocks.0.hook_resid_pre"])


def test_the_mix_of_questions_and_definitions() -> None:
    share = kinds(batches(100, mix=Mix(questions=0.7)))
    # a question has 1 alias, %, 4 integers, =; a definition a tag, an alias, % and an integer: .7 · 7 + .3 · 4 tokens
    assert share["equals"] == pytest.approx(0.7 / 6.1, abs=0.01)
    assert share["alias"] == pytest.approx(1 / 6.1, abs=0.01)
    assert share["answer"] == 0
    assert kinds(batches(20, mix=Mix(questions=1.0)))["equals"] == pytest.approx(1 / 7, abs=0.02)
    assert kinds(batches(20, mix=Mix(questions=0.0)))["equals"] == 0


def test_the_roles_of_the_tokens() -> None:
    assert kinds(batches(20, mix=Mix(questions=0.7, roles=("alias",))))["alias"] == 1


def test_weights_of_subsets_and_aliases_left_out() -> None:
    _, task = model_and_task()
    table = task.table
    weight = stream.weights(
        task, Mix(questions=0.5, subsets=("d1_consistent=3", "d2_consistent")), without=NO_ALIAS
    )
    assert weight.sum() == pytest.approx(1)
    share = {
        s: weight[table["subset"] == s].sum() for s in ("d1_consistent", "d2_consistent", "qd1_consistent")
    }
    assert share == pytest.approx({"d1_consistent": 0.75, "d2_consistent": 0.25, "qd1_consistent": 0})
    assert weight[table["kind"] == "question"].sum() == pytest.approx(0.5)
    by = {
        (kind, s): weight[(table["kind"] == kind) & (table["subset"] == s)].sum()
        for kind in ("question", "definition")
        for s in ("d1_consistent", "qd1_consistent")
    }
    assert [by[kind, "d1_consistent"] for kind in ("question", "definition")] == pytest.approx([0.375, 0.375])
    mixed = stream.weights(
        task, Mix(questions=0.5, subsets=("d1_consistent", "qd1_consistent")), without=NO_ALIAS
    )  # of which there are more training questions than of d1
    for kind in ("question", "definition"):
        at = [
            mixed[(table["kind"] == kind) & (table["subset"] == s)].sum()
            for s in ("d1_consistent", "qd1_consistent")
        ]
        assert at == pytest.approx([0.25, 0.25])
    out = stream.held_out(task, 0.34, seed=0)
    weight = stream.weights(task, Mix(questions=0.5), without=out)
    assert weight[out[table["alias"]]].sum() == 0
    of = table.drop_duplicates("alias").set_index("alias")["subset"]
    shares = [out[part.index].mean() for _, part in of.groupby(of, observed=True)]
    assert np.allclose(shares, 0.34, atol=0.02)
    assert not np.array_equal(out, stream.held_out(task, 0.34, seed=1))


def test_memory_is_bounded_by_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    fill = Stream._fill

    def watched(self: Stream) -> None:
        nonlocal largest
        fill(self)
        largest = max(largest, len(next(iter(self._left.values()))))

    monkeypatch.setattr(Stream, "_fill", watched)
    batches(100, buffer=200)
    assert 200 <= largest < 300


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (
            {"questions": 0.5, "subsets": ("d9",)},
            "'d9' names no subset of the run; use one of qd1_consistent",
        ),
        ({"questions": 0.5, "subsets": ("d1_consistent=0",)}, "write its weight as d1_consistent=2"),
        ({"questions": 0.5, "subsets": ("d1_consistent=x",)}, "write its weight"),
        ({"questions": 1.5}, "questions is 1.5; it is a share"),
        ({"questions": 0.5, "roles": ("verb",)}, "no token has the role 'verb'; roles are tag, alias"),
    ],
)
def test_a_mix_that_cannot_be_had(mix: dict[str, Any], words: str) -> None:
    with pytest.raises(MechoclError, match=words):
        stream.weights(model_and_task()[1], Mix(**mix), without=NO_ALIAS)


# ------------------------------------------------------------------------------------ dictionaries of a model

QUICK = TrainingConfig(site=(SITE,), width=(32,), k=4, activations=4096, batch_size=256, buffer=1024)


def changed(**changes: Any) -> TrainingConfig:
    from dataclasses import replace

    return replace(QUICK, **changes)


def weights_of(sae: Any) -> Tensor:
    return torch.cat([sae.W_enc.detach().flatten(), sae.W_dec.detach().flatten()])


def test_the_same_for_a_seed_and_whatever_is_trained_beside() -> None:
    model, task = model_and_task()
    alone = training.train(model, task, QUICK)
    beside = training.train(
        model, task, changed(site=("blocks.0.hook_resid_pre", SITE), width=(48, 32), sae_seeds=2)
    )
    (name,) = alone
    assert name == f"{SITE}-topk-32-k4-s0"
    assert len(beside) == 8
    assert torch.equal(weights_of(alone[name]), weights_of(beside[name]))
    twin = beside[f"{SITE}-topk-32-k4-s1"]
    assert not torch.equal(weights_of(alone[name]), weights_of(twin))
    other = training.train(model, task, changed(seed=1))
    assert not torch.equal(weights_of(alone[name]), weights_of(other[name]))
    assert alone[name].cfg.metadata.hook_name == SITE


def test_nobody_is_told_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    told = []
    monkeypatch.setattr(wandb, "init", lambda **given: told.append(given["project"]) or nullcontext())
    monkeypatch.setattr(wandb, "log", lambda *given, **more: told.append("log"))
    model, task = model_and_task()
    training.train(model, task, QUICK)
    assert told == []
    training.train(model, task, changed(wandb="mine"))
    assert told[0] == "mine"
    assert "log" in told


def test_a_transcoder_reads_and_writes_where_the_mlp_does(tmp_path: Path) -> None:
    from toy_models import architectures

    _, task = model_and_task()
    model = architectures.build(
        architectures.Architecture(n_layers=1, d_model=8, n_heads=1, d_mlp=16),
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        seed=0,
    )
    config = changed(architecture="transcoder", site=("blocks.0.hook_mlp_out",), activations=256 * 150)
    found = training.train(model, task, config)
    (sae,) = found.values()
    dictionaries.save(sae, tmp_path / "sae", {})
    loaded = dictionaries.load(tmp_path / "sae", device="cpu")
    assert (loaded.read, loaded.write) == ("blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out")
    assert type(SAE.load_from_disk(tmp_path / "sae")).__name__ == "JumpReLUTranscoder"
    value = quality.judge(model, task, loaded, others={}, share=0.34, seed=0).set_index(["measure", "part"])[
        "value"
    ]
    assert value["explained_variance", "all"] > 0.3
    with pytest.raises(MechoclError, match="a transcoder stands for an MLP: name its output"):
        training.train(model, task, changed(architecture="transcoder"))


def test_a_site_that_is_not_there() -> None:
    model, task = model_and_task()
    with pytest.raises(
        MechoclError, match=r"no hook point 'blocks\.9\.hook_resid_post'; it has, for example, blocks\.0"
    ):
        training.train(model, task, changed(site=("blocks.9.hook_resid_post",)))


@pytest.mark.parametrize("site", ["blocks.0.attn.hook_pattern", "blocks.0.attn.hook_result"])
def test_a_site_without_an_activation_of_every_token(site: str) -> None:
    model, task = model_and_task()
    with pytest.raises(MechoclError, match="has no activation of every token"):
        training.train(model, task, changed(site=(site,)))


def test_nothing_to_learn_from() -> None:
    nothing = iter([{"in": torch.zeros(512, 4)}] * 20)
    with pytest.raises(MechoclError, match="the activations at in are all 0"):
        training.fit(
            nothing, {"x": Wanted(read="in", write="in", width=8, number=0)}, changed(k=2, width=(8,))
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "k is 0; use at least 1"),
        ({"width": (4,)}, "width 4 has no more features than k = 4"),
        ({"site": ()}, "site is empty; name a hook point"),
        ({"held_out": 1.0}, "held_out is 1.0; it is a share between 0 and 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"activations": 100}, "use at least one batch, 256"),
        ({"questions": 2.0}, "questions is 2.0"),
    ],
)
def test_settings_that_mean_nothing(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MechoclError, match=words):
        changed(**change)


def test_a_training_that_diverged_is_refused() -> None:
    """Of every architecture: what is left after a learning rate of 1e20 is no dictionary."""
    for architecture in get_args(Architecture):
        draws = torch.Generator().manual_seed(0)
        batches = iter(
            [{"in": (x := torch.randn(256, 8, generator=draws)), "out": x.flip(1)} for _ in range(20)]
        )
        config = changed(architecture=architecture, learning_rate=1e20, activations=3072)
        write = "out" if architecture == "transcoder" else "in"
        wanted = {"x": Wanted(read="in", write=write, width=16, number=0)}
        with pytest.raises(
            MechoclError, match="the training of x diverged, and nothing of it is kept; use a --learning-rate"
        ):
            training.fit(batches, wanted, config)


# ------------------------------------------------------------------------------------ dictionaries of a run


def test_a_runs_dictionaries_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = jobs.train_run(
        tmp_path / "run", tiny.recipe(tmp_path), recipe_name="tiny", seeds=(0, 1), device="cpu", jobs=1
    )
    config = TrainingConfig(width=(24,), k=2, activations=2048, batch_size=256, buffer=1024, sae_seeds=2)
    told: dict[str, Any] = {"seeds": (0, 1), "stage": None, "device": "cpu", "jobs": 1}
    judged = sae_jobs.train_dictionaries(run, config, **told)
    names = ["blocks.0.hook_resid_pre-topk-24-k2-s0", "blocks.0.hook_resid_pre-topk-24-k2-s1"]
    assert list(judged) == names == dictionaries.names(run.path)
    assert judged[names[0]].others == (names[1],)
    path = run.path / "saes" / names[0] / "seed-1"
    SAE.load_from_disk(path)
    record = json.loads((path / dictionaries.RECORD).read_text())
    assert record["checkpoint"] == run.seed(1).final().sha256
    calls = []
    monkeypatch.setattr(training, "train", lambda *a, **k: calls.append(a) or {})
    sae_jobs.train_dictionaries(Run.open(run.path), config, **told)
    assert calls == []
    sae_jobs.train_dictionaries(run, TrainingConfig(**{**config_of(config), "learning_rate": 1e-3}), **told)
    assert len(calls) == 2  # trained so differently, they are not taken for the same
    shutil.rmtree(run.path / "saes" / names[1])
    shutil.copytree(run.path / "saes" / names[0], run.path / "saes" / names[1])
    sae_jobs.train_dictionaries(run, config, **told)
    assert len(calls) == 4  # a copy of the first is not taken for the second, which has other initial weights


def config_of(config: TrainingConfig) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(config)
