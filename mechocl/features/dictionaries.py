"""Sparse autoencoders on disk, in SAELens's own folder format: opened, checked, written.

What a run has trained lies in `RUN/saes/NAME/seed-K/`, one folder for each seed of the run:

    cfg.json  sae_weights.safetensors   as `sae_lens.SAE.load_from_disk` reads them
    mechocl.json                        which checkpoint's weights it saw, and which aliases it did not see
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mechocl import files
from mechocl.errors import MechoclError, describe_error
from mechocl.models import activations
from mechocl.models.seam import Transformer
from toy_models.task import Task

FOLDER: Final = "saes"
"""Folder of a run that holds them."""

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
RECORD: Final = "mechocl.json"

CHECKPOINT: Final = "checkpoint"
"""Key in the record of the sha256 of the weights that it was trained on."""

Weights = Literal["these", "others", "unknown"]
"""The weights that a dictionary was trained on: those that are looked at, others, or it does not say which."""

_PICKLES: Final = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A sparse autoencoder (or transcoder), and where in a model it belongs."""

    sae: Any
    """`sae_lens.SAE`."""
    read: str
    """Hook point whose activations it encodes."""
    write: str
    """Hook point that its reconstruction stands for; only a transcoder reads another one."""
    record: dict[str, Any]
    """What `mechocl.json` says; {} for an SAE from elsewhere."""
    trained_on: Weights = "unknown"
    """Whether it was trained on the weights that it is used on."""

    @property
    def width(self) -> int:
        return int(self.sae.cfg.d_sae)

    @property
    def W_dec(self) -> Float[Tensor, "feature d_out"]:
        weight: Tensor = self.sae.W_dec.detach()
        return weight

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """Activations of all features, by SAELens's own encoder."""
        found: Tensor = self.sae.encode(x.to(self.sae.W_enc))
        return found.to_dense() if found.is_sparse else found

    @torch.no_grad()
    def reconstruct(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The features' reconstruction from x: of the site itself, or of the site that a transcoder writes."""
        found: Tensor = self.sae(x.to(self.sae.W_enc))
        return found.to(x)


def path_of(run: Path, name: str, seed: int) -> Path:
    """Where a named SAE of a run lies; the path of an SAE folder stays the same for every seed."""
    if (Path(name) / CONFIG).exists() or Path(name).is_absolute():
        return Path(name)
    return run / FOLDER / name / f"seed-{seed}"


def names(run: Path) -> list[str]:
    """Names of the SAEs that a run has trained for at least one seed."""
    return sorted({path.parent.parent.name for path in (run / FOLDER).glob(f"*/*/{RECORD}")})


def find(run: Path, name: str, seed: int) -> Path:
    """The folder of an SAE with this name in the run, or at this path. Raises MechoclError when there is none."""
    path = path_of(run, name, seed)
    if name and path.is_dir():
        return path
    if name and Path(name).is_dir():
        return Path(name)  # `load` will say what is wrong with it
    known = names(run)
    raise MechoclError(
        f"{run} has no SAE {name!r} for seed {seed}, and no folder has this name; "
        + (f"it has {', '.join(known)}" if known else "train one with: mechocl sae train RUN")
    )


def files_of(path: Path) -> list[Path]:
    """The files of an SAE folder that `load` reads. Raises MechoclError as `load` does where one is missing."""
    if not ((path / CONFIG).exists() and (path / WEIGHTS).exists()):
        load(path, device="cpu")  # it says what is wrong
    return [path / name for name in (CONFIG, WEIGHTS, RECORD) if (path / name).exists()]


def is_trained(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether a folder holds a whole SAE whose record says `wanted`. What an older version did not record is not compared."""
    if not all((path / name).exists() for name in (CONFIG, WEIGHTS, RECORD)):
        return False
    held = files.read_json(path / RECORD, remedy=f"delete {path} and train it again")
    asked = json.loads(json.dumps(wanted))
    return bool(held.get("config")) and all(held.get(key, value) == value for key, value in asked.items())


def weights_of(record: dict[str, Any], checkpoint: str) -> Weights:
    """Whether a dictionary with this record was trained on the weights whose sha256 is `checkpoint`."""
    if CHECKPOINT not in record:
        return "unknown"
    return "these" if record[CHECKPOINT] == checkpoint else "others"


def load(path: Path, *, device: str, site: str | None = None) -> Dictionary:
    """Open an SAE folder in SAELens's format, whether it was trained here or elsewhere.

    Args:
        path: the folder.
        device: device for its weights.
        site: hook point that it is wanted for; default: the hook point that it names itself.

    Raises MechoclError for a folder that is incomplete, damaged or holds only pickles, and for a site that the SAE was
    not trained on.
    """
    import sae_lens

    weights = path / WEIGHTS
    pickles = sorted(p.name for p in path.glob("*") if p.suffix in _PICKLES)
    if not weights.exists() and pickles:
        raise MechoclError(
            f"{path / pickles[0]} is a pickle, which can run any code when it is opened; convert it to safetensors "
            f"and save it as {WEIGHTS}"
        )
    if not (path / CONFIG).exists() and (inside := sorted(path.glob(f"seed-*/{CONFIG}"))):
        one = inside[0].parent
        raise MechoclError(
            f"{path} holds a folder for each seed; give that of one seed, such as {one} with --seeds {one.name[5:]}"
        )
    again = f"delete {path} and train it again" if (path / RECORD).exists() else "copy the SAE again"
    for name in (CONFIG, WEIGHTS):
        if not (path / name).exists():
            raise MechoclError(f"{path} is incomplete: {name} is missing; {again}")
    record = files.read_json(path / RECORD, remedy=again) if (path / RECORD).exists() else {}
    digests = record.get("sha256") if (path / RECORD).exists() else {}
    if not isinstance(digests, dict):
        raise MechoclError(f"{path / RECORD} is damaged: it names no checksums; {again}")
    for name, digest in digests.items():
        if files.sha256(path / name) != digest:
            raise MechoclError(f"{path / name} does not match its checksum; {again}")
    config = files.read_foreign_json(path / CONFIG, remedy=again)
    held = files.read_foreign_tensors(weights, remedy=again)
    _refuse_other_widths(config, held, path)
    try:
        sae = sae_lens.SAE.load_from_disk(path, device=device)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise MechoclError(f"{path} is no SAE that SAELens can open ({describe_error(error)})") from error
    trained_on: str | None = sae.cfg.metadata.hook_name
    read = trained_on or site
    if read is None:
        raise MechoclError(f"{path / CONFIG} does not name its hook point; name it with --site")
    if site is not None and read != site:
        raise MechoclError(
            f"{path} was trained on {trained_on}, not on {site}; leave out --site or choose another SAE"
        )
    return Dictionary(sae.eval(), read, sae.cfg.metadata.hook_name_out or read, record)


def _refuse_other_widths(config: dict[str, Any], weights: dict[str, Tensor], path: Path) -> None:
    d_in, width = config.get("d_in"), config.get("d_sae")
    found = weights.get("W_enc")
    if found is None:
        raise MechoclError(f"{path / WEIGHTS} is incomplete: W_enc is missing; copy the SAE again")
    if tuple(found.shape) != (d_in, width):
        raise MechoclError(
            f"{path}: {CONFIG} says {d_in} inputs and {width} features, but W_enc is {tuple(found.shape)}; "
            "the two files do not belong together"
        )


def check_fits(dictionary: Dictionary, model: Transformer, task: Task) -> None:
    """Raises MechoclError when the model lacks the SAE's hook points or has another width there, and for a crosscoder."""
    if dictionary.record.get("kind") == "crosscoder":
        raise MechoclError(
            f"the SAE of {dictionary.read} is a crosscoder of several checkpoints; search it with `mechocl crosscoder`"
        )
    for site, width in (
        (dictionary.read, dictionary.sae.W_enc.shape[0]),
        (dictionary.write, dictionary.W_dec.shape[1]),
    ):
        found = flat(activations.collect(model, task.tokens[:1], [site])[site]).shape[-1]
        if found != width:
            raise MechoclError(
                f"the SAE is of {width} dimensions, but {site} of this model has {found}; it is an SAE of another model"
            )


def save(sae: Any, path: Path, record: dict[str, Any]) -> None:
    """Write an SAE folder as a whole: its files are made beside it, then renamed into place of any old folder."""
    with files.new_folder(path) as new:
        weights = sae.state_dict()
        sae.process_state_dict_for_saving(weights)
        # as SAELens's `save_model`, whose errors have no path
        files.write_tensors(new / WEIGHTS, weights, {})
        files.write_text(new / CONFIG, json.dumps(sae.cfg.to_dict(), indent=2))
        digests = {name: files.sha256(new / name) for name in (CONFIG, WEIGHTS)}
        files.write_json(new / RECORD, record | {"sha256": digests})


def flat(x: Tensor) -> Tensor:
    """Activations with the heads of a site (z) side by side, as SAEs read them."""
    found: Tensor = rearrange(x, "example pos ... -> example pos (...)")
    return found
