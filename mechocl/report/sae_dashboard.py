"""The dashboard of a run's sparse autoencoder: its facts, the pages of its features, and the file."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from mechocl import __version__
from mechocl.analyses import results
from mechocl.analyses.subject import open_subject
from mechocl.features import pages, summaries
from mechocl.features.candidates import EffectsConfig
from mechocl.features.dictionaries import Dictionary
from mechocl.features.search import SearchConfig
from mechocl.features.settings import QualityConfig
from mechocl.models.sites import hook_name
from mechocl.probing.scoring import ProbingConfig
from mechocl.report import dashboard
from mechocl.runs.folders import SeedFolder
from mechocl.runs.run import Run


def write_sae_dashboard(
    run: Run, seed: int, out: Path, *, config: SearchConfig, stage: int | None, device: str
) -> int:
    """Write the page of one seed's SAE into the file `out`, whose folder is made, and return its size in bytes.

    `config` names the SAE and the search whose rows are shown. The page shows what the causal test found. If the
    test was not done, the page says that the features have not been tested.
    """
    folder = run.seed(seed)
    subject = open_subject(
        folder, stage=stage, device=device, rows=results.rows_of_seed(folder, stage=stage, device=device)
    )
    dictionary = subject.sae(config.sae, config.site, transfer=config.transfer)
    same: dict[str, Any] = {"sae": config.sae, "site": config.site, "transfer": config.transfer}
    effects = EffectsConfig(**same)
    tested = run.load_result("sae-test", results.result_key(folder, "sae-test", effects, stage))
    quality = subject.rows("sae-quality", QualityConfig(**same))
    feature_pages = pages.pages(
        subject.model,
        subject.task,
        dictionary,
        search_rows=subject.rows("sae-search", config),
        tested=tested,
        collect=subject.collect,
        seed=config.seed,
        probes=probe_directions_at(run, folder, dictionary.write, stage=stage),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    option = " --transfer" if config.transfer else ""
    untested = f"The features have not been tested: mechocl sae test {run.path} {config.sae}{option}"
    warnings = [summaries.TRAINED_ON[dictionary.trained_on], untested if tested is None else ""]
    return dashboard.write(
        feature_pages,
        out,
        width=dictionary.width,
        title=f"Features of {config.sae}",
        facts={"Run": str(run.path), "Seed": str(seed), "SAE": config.sae}
        | dictionary_facts(dictionary, quality),
        warning=" ".join(filter(None, warnings)),
    )


def dictionary_facts(dictionary: Dictionary, quality: pd.DataFrame) -> dict[str, str]:
    """What the page's header says of a dictionary, from the rows of its `sae-quality` analysis."""
    value = {
        (str(measure), str(part)): float(number)
        for measure, part, number in zip(quality["measure"], quality["part"], quality["value"], strict=True)
    }
    same = dictionary.read == dictionary.write
    return {
        "Site": dictionary.read if same else f"{dictionary.read} → {dictionary.write}",
        "Features": str(dictionary.width),
        "Active features on a token": f"{value['l0', 'all']:.1f}",
        "Explained variance": f"{value['explained_variance', 'all']:.3f}",
        "Loss recovered": f"{value['loss', 'recovered']:.3f}",
        "Within-alias AUC recovered": ", ".join(
            f"{part} {v:.2f}"
            for (measure, part), v in value.items()
            if measure == "auc_recovered" and part != "no_data" and math.isfinite(v)
        ),
        "Dead on all texts": f"{value['dead', 'all']:.0%}",
        "Held-out aliases": (
            f"AUC, q and effects are of aliases that the SAE has not seen ({dictionary.record['held_out']:.0%} of each subset)"
            if dictionary.record.get("held_out")
            else "the SAE does not say which aliases it has seen: AUC, q and effects are of a random third of them"
        ),
        "Version": f"mechocl {__version__}",
    }


def probe_directions_at(
    run: Run, folder: SeedFolder, hook: str, *, stage: int | None
) -> Mapping[str, Float[Tensor, " d"]]:
    """Unit vectors of the run's default two-class probes at a hook point, by probe and position.

    The mapping is empty if the probes have not been computed.
    """
    inputs = results.result_key(folder, "probe", ProbingConfig(), stage)
    rows, arrays = run.load_result("probe", inputs), run.load_arrays("probe", inputs)
    vectors: dict[str, Tensor] = {}
    for key, directions in arrays.items():
        probe, site, layer = key.rsplit("/", 2)
        if rows is None or hook_name(site, int(layer)) != hook or directions.shape[-1] > 1:
            continue
        at = rows[(rows["probe"] == probe) & (rows["site"] == site) & (rows["layer"] == int(layer))]
        for position, draws in zip(at["position"].drop_duplicates(), directions, strict=True):
            if bool(draws[0].any()):
                vectors[f"{probe} at {position}"] = draws[0, :, 0]
    return vectors
