"""A small ConvNet that reads its images as tokens, with hook points as TransformerLens's models have them.

An example is a row of tokens (`toy_models.digit_grid`): one image for each cell of a grid, a tag or the cell that is asked about, and `=`. The model
draws them as pixels, reads the picture, and gives logits for each cell at the position before the cell's label. So it
is trained, asked and judged as a transformer is, though no position of it is a stage of reading: every label is read from the whole picture.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from toy_models.convnet_config import KERNEL, ConvNetConfig, Pictures
from toy_models.randomness import generator


@dataclass(slots=True, kw_only=True)
class ConvNetShape:
    """What analyses read of a model's `cfg`."""

    n_layers: int
    n_heads: int
    """0: there is no attention."""
    d_model: int
    d_vocab: int
    d_vocab_out: int
    n_ctx: int
    tie_word_embeddings: bool = False


class _Layer(nn.Module):
    """A convolution or a fully connected layer, normalised over all that it gives, and ReLU."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.inner, self.norm = inner, nn.GroupNorm(1, width)
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.hook_post(F.relu(self.norm(self.hook_pre(self.inner(x)))))
        return out


class _Unembed(nn.Module):
    def __init__(self, d_model: int, d_vocab_out: int) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.zeros(d_model, d_vocab_out))
        self.b_U = nn.Parameter(torch.zeros(d_vocab_out))
        self.hook_in = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.hook_in(x) @ self.W_U + self.b_U
        return logits


class HookedConvNet(HookedRootModule):  # type: ignore[misc]
    """The model. Hook points: `hook_pixels` (the picture), `layers.L.hook_pre` and `hook_post` (before the norm, and after ReLU), and
    `unembed.hook_in` (one vector for each position; those that predict no label are 0)."""

    pixels: Tensor

    def __init__(self, config: ConvNetConfig, pictures: Pictures, *, d_vocab: int, d_vocab_out: int) -> None:
        super().__init__()
        self.pictures = pictures
        cells, size = pictures.cells, pictures.pixels.shape[1]
        # the images are the world's, the same in every checkpoint; the patterns of the tags are drawn by the seed
        self.register_buffer("pixels", pictures.pixels, persistent=False)
        self.patterns = nn.Parameter(torch.zeros(3, size, size), requires_grad=False)
        digest = hashlib.sha256(pictures.pixels.contiguous().numpy().tobytes()).digest()
        self.images_sha256 = nn.Parameter(
            torch.tensor(list(digest), dtype=torch.float32), requires_grad=False
        )
        self.hook_pixels = HookPoint()
        height, width, before = size * (pictures.side + 1), size * pictures.side, 2
        layers = []
        for index, channels in enumerate(config.channels):
            stride = 1 if index == 0 else 2
            layers.append(
                _Layer(nn.Conv2d(before, channels, KERNEL, stride=stride, padding=KERNEL // 2), channels)
            )
            height, width, before = -(-height // stride), -(-width // stride), channels
        self.n_convolutions, wide = len(layers), height * width * before
        for hidden in config.hidden:
            layers.append(_Layer(nn.Linear(wide, hidden), hidden))
            wide = hidden
        self.layers = nn.ModuleList(layers)
        self.to_cells = nn.Linear(wide, cells * config.d_model)
        self.ln_final = nn.LayerNorm(config.d_model)
        self.unembed = _Unembed(config.d_model, d_vocab_out)
        self.cfg = ConvNetShape(
            n_layers=len(layers), n_heads=0, d_model=config.d_model, d_vocab=d_vocab, d_vocab_out=d_vocab_out, n_ctx=2 * cells + 2,
        )  # fmt: skip
        self.setup()

    def require_images(self, weights: Mapping[str, Tensor]) -> None:
        """Raise ValueError for saved weights that were trained on other images than the model has."""
        if not torch.equal(weights["images_sha256"].cpu(), self.images_sha256.cpu()):
            raise ValueError(
                "the weights were trained on other images than task.images has now; put those back, or train again with another --out"
            )

    @property
    def W_U(self) -> Tensor:
        return self.unembed.W_U

    @property
    def b_U(self) -> Tensor:
        return self.unembed.b_U

    def draw(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch plane height width"]:
        """The picture of each example: in the first plane the pattern of its tag above the grid of images, in the second the cell that is
        asked about, all of it 1. Only the images and the token behind them are looked at."""
        p, side, size = self.pictures, self.pictures.side, self.pixels.shape[1]
        images = self.pixels[tokens[:, : p.cells] - p.first_image]
        grid = rearrange(images, "batch (row column) y x -> batch (row y) (column x)", row=side)
        mark = tokens[:, p.cells, None]
        is_tag = (mark == p.first_tag + torch.arange(3, device=tokens.device)).to(grid.dtype)
        is_cell = (mark == p.first_cell + torch.arange(p.cells, device=tokens.device)).to(grid.dtype)
        strip = einsum(is_tag, self.patterns, "batch tag, tag y x -> batch y x").repeat(1, 1, side)
        asked = repeat(is_cell, "batch (row column) -> batch (row y) (column x)", row=side, y=size, x=size)
        return torch.stack([torch.cat([strip, grid], 1), torch.cat([torch.zeros_like(strip), asked], 1)], 1)

    def residual(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """What the unembedding reads at each position: 0 at those that predict no label."""
        x = self.hook_pixels(self.draw(tokens))
        for index, layer in enumerate(self.layers):
            x = layer(x.flatten(1) if index == self.n_convolutions else x)
        cells = self.ln_final(
            rearrange(self.to_cells(x), "batch (cell d) -> batch cell d", cell=self.pictures.cells)
        )
        return F.pad(cells, (0, 0, self.pictures.cells + 1, 1))[:, : tokens.shape[1]]

    def forward(self, tokens: Int[Tensor, "batch pos"], *, return_type: str | None = "logits") -> Any:
        """Logits of each position. `return_type` may be `residual`, what the unembedding reads, or None, for those who look at hook points
        alone."""
        x = self.residual(tokens)
        if return_type == "residual":
            return x
        logits = self.unembed(x)
        return logits if return_type == "logits" else None


@dataclass(frozen=True, slots=True)
class StackedConvNets:
    """The forward pass of several ConvNets of one shape at once, as `lean.Shape` is that of transformers."""

    model: HookedConvNet

    def residual(
        self,
        p: Mapping[str, Tensor],
        tokens: Int[Tensor, "model batch pos"],
        *,
        cut: Bool[Tensor, "model batch pos pos"] | None = None,
    ) -> Float[Tensor, "model batch pos d_model"]:
        """What the unembedding of each model reads. `p` are the models' parameters, stacked on a first axis `model`.

        Raises ValueError for a `cut`, since nothing attends.
        """
        if cut is not None:
            raise ValueError("a ConvNet has no attention that could be cut")
        own = {name: value for name, value in p.items() if not name.startswith("unembed.")}

        # one model after the other: convolutions of several models at once are slower on a CPU
        each = [
            functional_call(
                self.model,
                {name: value[k] for name, value in own.items()},
                (rows,),
                {"return_type": "residual"},
            )
            for k, rows in enumerate(tokens)
        ]
        return torch.stack(each)


def build(
    config: ConvNetConfig, pictures: Pictures, *, d_vocab: int, d_vocab_out: int, seed: int
) -> HookedConvNet:
    """A freshly initialised model on the CPU in float32, with logits for the first `d_vocab_out` ids.

    Weights are drawn as torch draws them by default: uniformly, ± 1 / √(number of inputs), and so are the biases of layers; those of norms
    are 0, and the unembedding's. Each pixel of a tag's pattern is 0 or 1. The weights depend on the arguments alone.
    """
    with torch.random.fork_rng(
        devices=[]
    ):  # what torch's layers draw when they are made is drawn again below
        model = HookedConvNet(config, pictures, d_vocab=d_vocab, d_vocab_out=d_vocab_out)
    draws = generator(seed, "initialisation")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = module.weight[0].numel() ** -0.5
                for drawn in (module.weight, module.bias):
                    assert drawn is not None
                    drawn.uniform_(-bound, bound, generator=draws)
        bound = config.d_model**-0.5
        model.unembed.W_U.uniform_(-bound, bound, generator=draws)
        shape = model.patterns.shape
        model.patterns.copy_(torch.randint(0, 2, shape, generator=generator(seed, "tag patterns")))
    return model
