"""The other side of the training benchmark: `transformers.Trainer` on a `GPTNeoXForCausalLM`."""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from toy_models.architectures import Architecture
from toy_models.stages import StageConfig
from toy_models.task import Task

IGNORED = -100


def build(a: Architecture, *, d_vocab: int, n_ctx: int) -> Any:
    """A GPT-NeoX of this shape, with logits for the whole vocabulary.

    Without positions no dimension is rotated, which GPT-NeoX allows. Its cache of keys and values is off, because
    training does not use it. Raises ValueError when GPT-NeoX does not have the shape.
    """
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    if a.normalization != "LN" or a.d_mlp == 0 or a.positions == "learned":
        raise ValueError("GPT-NeoX has layer norms, MLPs and no learned positions; choose such a recipe")
    rotated = a.rotary_dim / a.d_head if a.positions == "rotary" else 0.0
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=d_vocab,
            hidden_size=a.d_model,
            num_hidden_layers=a.n_layers,
            num_attention_heads=a.n_heads,
            intermediate_size=a.d_mlp,
            hidden_act=a.activation,
            max_position_embeddings=n_ctx,
            initializer_range=a.init_std,
            layer_norm_eps=a.layer_norm_eps,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=a.tied_embeddings,
            use_parallel_residual=a.parallel_attn_mlp,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": rotated,
            },
        )
    )


@torch.no_grad()
def copy_weights(theirs: Any, model: Any) -> None:
    """Give a GPT-NeoX the weights of a `HookedTransformer` of the same shape.

    If the `HookedTransformer` has fewer logits than tokens, the rest of the unembedding stays as it was.
    GPT-NeoX's unembedding has no bias.
    """
    theirs.gpt_neox.embed_in.weight.copy_(model.embed.W_E)
    for layer, block in zip(theirs.gpt_neox.layers, model.blocks, strict=True):
        attn, mlp = block.attn, block.mlp
        _copy(layer.input_layernorm, block.ln1.w, block.ln1.b)
        _copy(layer.post_attention_layernorm, block.ln2.w, block.ln2.b)
        weights = torch.stack([attn.W_Q, attn.W_K, attn.W_V])
        biases = torch.stack([attn.b_Q, attn.b_K, attn.b_V])
        _copy(
            layer.attention.query_key_value,
            rearrange(weights, "three head d_model d_head -> (head three d_head) d_model"),
            rearrange(biases, "three head d_head -> (head three d_head)"),
        )
        output = rearrange(attn.W_O, "head d_head d_model -> d_model (head d_head)")
        _copy(layer.attention.dense, output, attn.b_O)
        _copy(layer.mlp.dense_h_to_4h, mlp.W_in.T, mlp.b_in)
        _copy(layer.mlp.dense_4h_to_h, mlp.W_out.T, mlp.b_out)
    _copy(theirs.gpt_neox.final_layer_norm, model.ln_final.w, model.ln_final.b)
    if not model.cfg.tie_word_embeddings:
        theirs.get_output_embeddings().weight[: model.cfg.d_vocab_out].copy_(model.unembed.W_U.T)


def _copy(module: Any, weight: Tensor, bias: Tensor) -> None:
    module.weight.copy_(weight)
    module.bias.copy_(bias)


def labels(task: Task) -> Tensor:
    """The tokens that carry loss, in their own places, and `IGNORED` elsewhere. The model shifts them itself."""
    made = torch.full_like(task.tokens, IGNORED)
    made[:, 1:] = task.tokens[:, 1:].masked_fill(~task.loss_mask[:, :-1], IGNORED)
    return made


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A stage's training examples. A batch is one look-up, which is the fastest way of the Trainer's loader."""

    def __init__(self, task: Task, stage: StageConfig) -> None:
        chosen = torch.from_numpy(task.training_rows(stage.data))
        self.tokens, self.labels = task.tokens[chosen], labels(task)[chosen]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[row], "labels": self.labels[row]}

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[rows], "labels": self.labels[rows]}


def train(
    model: Any,
    task: Task,
    stage: StageConfig,
    *,
    precision: str,
    device: str,
    steps: int,
    on_step_begin: Callable[[], None],
    on_step_end: Callable[[], bool],
) -> None:
    """`Trainer.train` at a constant learning rate, without evaluating, saving, logging or reporting.

    `on_step_end` returns whether to stop. The Trainer's own grouping stays, so biases and layer norms have no weight
    decay. Its check of the loss for NaN, which belongs to logging, is off.
    """
    import transformers
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_step_begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = on_step_end()

    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=device == "cpu",
            bf16=precision == "bf16",
            per_device_train_batch_size=stage.batch_size,
            max_steps=steps,
            learning_rate=stage.learning_rate,
            lr_scheduler_type="constant",
            optim={"adamw": "adamw_torch_fused", "adafactor": "adafactor", "sgd": "sgd"}[stage.optimizer],
            # the Trainer's SGD is torch's and takes its momentum here; AdamW takes β₁ instead
            optim_args=f"momentum={stage.momentum}" if stage.optimizer == "sgd" else None,
            adam_beta1=stage.momentum,
            adam_beta2=stage.beta2,
            weight_decay=stage.weight_decay,
            max_grad_norm=stage.gradient_clip,
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=device == "cuda",
            remove_unused_columns=False,  # removing them would look into each row
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=Rows(task, stage),
            data_collator=lambda batch: batch,
            callbacks=[Watch()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
