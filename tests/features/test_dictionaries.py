"""SAE folders in SAELens's format: opened, checked, written; encoders against plain formulas."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Mechanism, planted_model, small_task
from sae_lens import (
    SAE,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTranscoder,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.saes import JumpReLUTranscoderConfig

from mechocl.errors import MechoclError
from mechocl.features import dictionaries, effects, quality
from mechocl.features.dictionaries import Dictionary

SITE = "blocks.0.hook_resid_pre"


def random_sae(kind: str, *, d: int = 6, width: int = 20, seed: int = 0):
    torch.manual_seed(seed)
    match kind:
        case "topk":
            sae = TopKSAE(TopKSAEConfig(d_in=d, d_sae=width, k=4))
        case "jumprelu":
            sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d, d_sae=width))
            sae.threshold.data = torch.rand(width) / 2
        case "standard":
            sae = StandardSAE(StandardSAEConfig(d_in=d, d_sae=width))
        case "transcoder":
            sae = JumpReLUTranscoder(
                JumpReLUTranscoderConfig(d_in=d, d_out=d + 2, d_sae=width, apply_b_dec_to_input=False)
            )
            sae.threshold.data = torch.rand(width) / 2
    for name in ("b_enc", "b_dec"):
        getattr(sae, name).data = torch.randn_like(getattr(sae, name)) / 3
    sae.cfg.metadata.hook_name = SITE
    return sae


def identity(d: int, site: str = SITE) -> Dictionary:
    """x = relu(x) − relu(−x): a dictionary of ±unit vectors, with nothing lost."""
    sae = StandardSAE(StandardSAEConfig(d_in=d, d_sae=2 * d))
    eye = torch.eye(d)
    sae.W_enc.data, sae.W_dec.data = torch.cat([eye, -eye], dim=1), torch.cat([eye, -eye])
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    return Dictionary(sae.eval(), site, site, {})


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "standard", "transcoder"])
def test_a_saved_encoder_agrees_with_saelens_and_with_the_formula(kind: str, tmp_path: Path) -> None:
    sae = random_sae(kind)
    dictionaries.save(sae, tmp_path / "sae", {"seed": 3})
    ours = dictionaries.load(tmp_path / "sae", device="cpu")
    theirs = SAE.load_from_disk(tmp_path / "sae")
    x = torch.randn(50, 3, 6)
    pre = x @ sae.W_enc + sae.b_enc
    if kind != "transcoder":
        pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    formula = pre.relu()
    if kind == "topk":
        formula = torch.where(pre >= pre.topk(4, dim=-1).values[..., -1:], formula, 0.0)
    elif kind != "standard":
        formula = formula * (pre > sae.threshold)
    assert torch.allclose(ours.encode(x), formula, atol=1e-6)
    assert torch.equal(ours.encode(x), theirs.encode(x).detach())
    assert torch.allclose(ours.reconstruct(x), formula @ sae.W_dec + sae.b_dec, atol=1e-6)
    assert ours.record["seed"] == 3
    assert (ours.read, ours.write) == (SITE, SITE)


@pytest.mark.parametrize("normalised", ["none", "layer_norm", "constant_norm_rescale"])
def test_features_that_do_not_add_their_decoder_rows_are_refused(normalised: str) -> None:
    sae = StandardSAE(StandardSAEConfig(d_in=6, d_sae=20, normalize_activations=normalised))
    sae.b_enc.data.fill_(1.0)
    dictionary = Dictionary(sae.eval(), SITE, SITE, {})
    if normalised == "none":
        effects._refuse_scaled(dictionary)
        for kind in ("topk", "jumprelu", "transcoder"):
            effects._refuse_scaled(Dictionary(random_sae(kind).eval(), SITE, SITE, {}))
    else:
        with pytest.raises(MechoclError, match=f"normalize_activations = '{normalised}'.*use an SAE without"):
            effects._refuse_scaled(dictionary)


def test_splicing_in_an_identity_changes_nothing() -> None:
    task = small_task()
    model = planted_model(task, Mechanism(tag2_gain=0.0))
    clean = model(task.tokens[:100])
    for site in (SITE, "blocks.1.hook_resid_post", "blocks.0.attn.hook_z"):
        with quality.replaced(model, identity(_width(model, task, site), site)):
            spliced = model(task.tokens[:100])
        assert torch.equal(spliced, clean)
    with quality.replaced(model, identity(_width(model, task, SITE)), by_zeros=True):
        assert not torch.equal(model(task.tokens[:100]), clean)
    assert torch.equal(model(task.tokens[:100]), clean)  # nothing stays behind


def test_the_quality_of_an_identity_is_perfect() -> None:
    task = small_task()
    model = planted_model(task, Mechanism(tag2_gain=0.0))
    dictionary = identity(model.cfg.d_model)
    rows = quality.judge(model, task, dictionary, others={"twin": dictionary}, share=0.34, seed=0)
    value = rows.set_index(["measure", "part"])["value"]
    assert value["explained_variance", "all"] == pytest.approx(1.0, abs=1e-6)
    assert value["loss", "recovered"] == pytest.approx(1.0, abs=1e-6)
    assert value["auc_clean", "d1_consistent"] == value["auc_spliced", "d1_consistent"] == 1.0
    assert value["auc_recovered", "d1_consistent"] == 1.0
    assert np.isnan(value["auc_recovered", "d2_consistent"])  # suppressed: there is nothing to recover
    assert value["found_again", "twin"] == 1.0


def test_what_an_sae_forgets_is_seen_in_the_auc_and_not_in_the_variance() -> None:
    """Without the stored integers the reconstruction keeps 1 − their variance, and no answer."""
    task = small_task()
    model = planted_model(task, Mechanism(name_dims=30))
    dictionary = identity(model.cfg.d_model)
    for name in ("W_enc",):
        weight = getattr(dictionary.sae, name).data
        weight[:, :12] = weight[:, model.cfg.d_model : model.cfg.d_model + 12] = 0
    value = quality.judge(model, task, dictionary, others={}, share=0.34, seed=0).set_index(
        ["measure", "part"]
    )["value"]
    assert value["explained_variance", "all"] > 0.9
    assert value["auc_spliced", "d1_consistent"] == 0.5
    assert value["auc_recovered", "d1_consistent"] == 0.0
    assert value["silent", "all"] >= 24 / (2 * model.cfg.d_model)


def test_dead_and_silent_features_are_counted() -> None:
    task = small_task()
    model = planted_model(task, Mechanism())
    dictionary = identity(model.cfg.d_model)
    value = quality.judge(model, task, dictionary, others={}, share=0.34, seed=0).set_index(
        ["measure", "part"]
    )["value"]
    x = model.embed(task.tokens)
    alive = torch.cat([(x > 0).flatten(0, 1).any(0), (x < 0).flatten(0, 1).any(0)])
    assert value["dead", "all"] == pytest.approx(1 - alive.float().mean().item())
    assert value["l0", "alias"] == pytest.approx(3, abs=0.2)  # alias, stored, tag (undefined ones have two)


def test_features_found_again() -> None:
    a = torch.eye(4)
    b = torch.stack(
        [torch.tensor([3.0, 0, 0, 0]), torch.tensor([0, 1.0, 1.0, 0]), torch.tensor([0, 0, 0, -1.0])]
    )
    assert quality.found_again(a, b) == 0.25  # cosines 1, .707, .707, −1


# ------------------------------------------------------------------------------------------ bad input


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "sae"
    dictionaries.save(random_sae("jumprelu"), path, {})
    return path


def refused(path: Path, words: str, **options: str) -> None:
    with pytest.raises(MechoclError, match=words) as error:
        dictionaries.load(path, device="cpu", **options)
    assert "\n" not in str(error.value)


def test_an_incomplete_folder_is_refused(saved: Path) -> None:
    (saved / dictionaries.CONFIG).rename(saved / "elsewhere.json")
    refused(saved, "cfg.json is missing")


def test_missing_weights_are_named(saved: Path) -> None:
    (saved / dictionaries.WEIGHTS).unlink()
    refused(saved, "sae_weights.safetensors is missing")


def test_a_pickle_is_refused(saved: Path) -> None:
    (saved / dictionaries.WEIGHTS).unlink()
    torch.save({"W_enc": torch.zeros(1)}, saved / "sae.pt")
    refused(saved, "is a pickle.*convert it to safetensors")


def test_truncated_weights_are_refused(saved: Path) -> None:
    (saved / dictionaries.RECORD).unlink()
    content = (saved / dictionaries.WEIGHTS).read_bytes()
    (saved / dictionaries.WEIGHTS).write_bytes(content[: len(content) // 2])
    refused(saved, "sae_weights.safetensors is damaged")


def test_a_record_without_checksums_is_refused(saved: Path) -> None:
    (saved / dictionaries.RECORD).write_text("{}")
    refused(saved, "mechocl.json is damaged: it names no checksums; delete .* and train it again")


def test_altered_weights_are_refused(saved: Path) -> None:
    content = bytearray((saved / dictionaries.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (saved / dictionaries.WEIGHTS).write_bytes(bytes(content))
    refused(saved, "does not match its checksum")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"d_sae": 21}, "cfg.json says 6 inputs and 21 features, but W_enc is"),
        ({"architecture": "nothing"}, "no SAE that SAELens can open"),
    ],
)
def test_a_config_of_another_sae_is_refused(saved: Path, change: dict, words: str) -> None:
    (saved / dictionaries.RECORD).unlink()
    config = json.loads((saved / dictionaries.CONFIG).read_text())
    (saved / dictionaries.CONFIG).write_text(json.dumps(config | change))
    refused(saved, words)


def test_another_site_is_refused_and_a_missing_one_asked_for(saved: Path) -> None:
    refused(
        saved,
        "was trained on blocks.0.hook_resid_pre, not on blocks.0.hook_resid_post",
        site="blocks.0.hook_resid_post",
    )
    (saved / dictionaries.RECORD).unlink()
    config = json.loads((saved / dictionaries.CONFIG).read_text())
    del config["metadata"]["hook_name"]
    (saved / dictionaries.CONFIG).write_text(json.dumps(config))
    refused(saved, "does not name its hook point; name it with --site")
    assert dictionaries.load(saved, device="cpu", site=SITE).read == SITE


def test_an_sae_of_another_model_is_refused(saved: Path) -> None:
    task = small_task()
    dictionary = dictionaries.load(saved, device="cpu")
    with pytest.raises(
        MechoclError, match=r"the SAE is of 6 dimensions, but blocks\.0\.hook_resid_pre of this model has"
    ):
        dictionaries.check_fits(dictionary, planted_model(task, Mechanism()), task)


def test_a_name_that_is_not_there(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(MechoclError, match=r"has no SAE 'this' for seed 0.*mechocl sae train"):
        dictionaries.find(tmp_path, "this", 0)
    shutil.copytree(saved, tmp_path / "saes" / "that" / "seed-0")
    with pytest.raises(MechoclError, match="it has that"):
        dictionaries.find(tmp_path, "this", 0)
    assert dictionaries.find(tmp_path, "that", 0) == tmp_path / "saes" / "that" / "seed-0"
    assert dictionaries.find(tmp_path, str(saved), 5) == saved


def test_saving_replaces_a_folder_whole(saved: Path) -> None:
    (saved / "leftover").write_text("")
    dictionaries.save(random_sae("standard"), saved, {"seed": 1})
    assert sorted(p.name for p in saved.iterdir()) == [
        dictionaries.CONFIG,
        dictionaries.RECORD,
        dictionaries.WEIGHTS,
    ]
    assert [p.name for p in saved.parent.iterdir()] == ["sae"]
    assert dictionaries.load(saved, device="cpu").record["seed"] == 1


def _width(model, task, site: str) -> int:
    _, cache = model.run_with_cache(task.tokens[:1], names_filter=site)
    return int(np.prod(cache[site].shape[2:]))
