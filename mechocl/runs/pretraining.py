"""Pretrain a small GPT-NeoX on an invented world. After that it can be used like any other Pythia."""

import dataclasses
import shutil
import string
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from mechocl import files
from mechocl.closed_book import answers, definitions, encoding, examples, worlds
from mechocl.closed_book.batches import Collator, choose_pad
from mechocl.closed_book.definitions import question
from mechocl.closed_book.questioning import TextQuestioning
from mechocl.destinations import written_by_library
from mechocl.errors import MechoclError
from mechocl.models import hub, shared_layers
from mechocl.runs.needed_memory import require_pretraining_memory
from mechocl.runs.pretraining_config import PretrainingConfig
from mechocl.runs.progress import Progress
from mechocl.runs.trainer import Moment, Settings, train_model
from toy_models.task import Task

TEXT_END: Final = "<|endoftext|>"
UNKNOWN: Final = "<|unknown|>"

SETTINGS: Final = "pretraining.json"
"""File beside the weights of a pretrained model: how it was trained."""

KNOWN_PEOPLE: Final = "known-people.csv"
"""File beside the weights of a pretrained model: how well it answers questions about the people in its texts."""

_RESUME: Final = "resume"


def pretrain(
    out: Path,
    world: worlds.InventedConfig,
    config: PretrainingConfig,
    *,
    seed: int,
    device: str,
    save_every_s: float,
    progress: Progress,
) -> pd.DataFrame:
    """Train a tokenizer and a model on the corpus of an invented world, and save both as a Hugging Face folder.

    If an earlier call was stopped, this call continues it. Returns the table of `known_people`, which is also saved as
    known-people.csv. Raises MechoclError when `out` holds something else.
    """
    record, settings = worlds.drawing_record(world, seed), dataclasses.asdict(config)
    ledger = hub.ledger_of(out)
    for name in ledger.entries():
        ledger.checked(name)
    _refuse_other_contents(out, record, settings)
    files.remove_temporary(out)
    if not (out / KNOWN_PEOPLE).exists():
        require_pretraining_memory(world, config)
        progress("building the corpus", 0.0)
        texts = worlds.draw_corpus(world, seed=seed)
        tokenizer = make_tokenizer(config, texts)
        model = untrained_model(config, vocabulary=len(tokenizer), seed=seed)
        batches = _Batches(texts, tokenizer, tokens=config.batch_tokens, context=config.context)
        out.mkdir(parents=True, exist_ok=True)
        files.write_json(out / worlds.RECORD, record)
        files.write_json(out / SETTINGS, settings)
        collate = Collator(pad=choose_pad(tokenizer), eos=None)

        def then(moment: Moment) -> bool:
            with written_by_library(out):
                weights = shared_layers.separated(moment.model, moment.state())
                moment.model.save_pretrained(out, state_dict=weights)
            return True

        train_model(
            model,
            batches,
            lambda chosen: collate(chosen[0]),
            _trainer_settings(config),
            folder=out / _RESUME,
            seed=seed,
            device=device,
            save_every_s=save_every_s,
            at=lambda total: [total],
            then=then,
            progress=progress,
        )
        with written_by_library(out):
            tokenizer.save_pretrained(out)
        progress("asking about the known people", 1.0)
        found = known_people(out, world, seed=seed, device=device)
        files.write_text(out / KNOWN_PEOPLE, found.to_csv(index=False))
        ledger.record(*sorted(path.name for path in out.iterdir() if path.is_file() and path != ledger.path))
        shutil.rmtree(out / _RESUME, ignore_errors=True)
    return pd.read_csv(out / KNOWN_PEOPLE)


def _refuse_other_contents(out: Path, record: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise MechoclError when `out` holds anything but what a pretraining with this record and these settings makes."""
    remedy = f"restore it, or delete {out} and run the same `mechocl pretrain` again"
    if (out / worlds.RECORD).exists() and files.read_json(out / worlds.RECORD, remedy=remedy) != record:
        raise MechoclError(
            f"{out} holds a model of another invented world; choose another --out, or delete it"
        )
    # what a folder of an older version does not name was as it is by default
    known = dataclasses.asdict(PretrainingConfig())
    if (out / SETTINGS).exists() and known | files.read_json(out / SETTINGS, remedy=remedy) != settings:
        raise MechoclError(
            f"{out} holds a model of another shape or training; choose another --out, or delete it"
        )
    if out.exists() and not (out / worlds.RECORD).exists() and any(p.name != _RESUME for p in out.iterdir()):
        raise MechoclError(f"{out} exists and is not a pretrained model; choose another --out")


def _trainer_settings(config: PretrainingConfig) -> Settings:
    return Settings(
        epochs=config.epochs,
        batch_size=1,
        optimizer="adamw",
        learning_rate=config.learning_rate,
        beta2=0.98,
        schedule="stable",
        warmup=0.03,
    )


def known_people(path: Path, world: worlds.InventedConfig, *, seed: int, device: str) -> pd.DataFrame:
    """Exact match on all questions about all people without call signs, with one row per attribute.

    Columns: `attribute`; `exact_match`; `majority`, the share of people with the attribute's most common answer.
    """
    model = hub.read_model(path).to(device)
    tokenizer = hub.require_tokenizer(path)
    people = worlds.draw_world(world, seed=seed)
    task = asked(people, tokenizer, context=hub.read_config(path).context)
    rows = task.rows(kind="question")
    found = answers.answer(model, tokenizer, task, rows)
    table = task.table.assign(exact_match=found["exact_match"].to_numpy(dtype=float))
    each = table.groupby("attribute", sort=False)
    means = each["exact_match"].mean()
    majority = each["answers"].agg(lambda a: a.value_counts(normalize=True).iloc[0])
    result = pd.DataFrame(
        {"attribute": means.index, "exact_match": means.to_numpy(), "majority": majority.to_numpy()}
    )
    every = {"attribute": "all", "exact_match": table["exact_match"].mean(), "majority": majority.mean()}
    return pd.concat([result, pd.DataFrame([every])], ignore_index=True)


def asked(people: Any, tokenizer: Any, *, context: int) -> Task:
    """A task of all questions of a world, which name the entities themselves."""
    import json

    pieces = [
        question(people.entities[q.entity], "entity", q.template, q.answers[0]) for q in people.questions
    ]
    tokens, roles = encoding.encoded(pieces, tokenizer, context=context)
    table = pd.DataFrame(
        {
            "kind": "question",
            "attribute": [q.attribute for q in people.questions],
            "answers": [json.dumps(q.answers) for q in people.questions],
        }
    )
    return Task(
        tokens=tokens,
        roles=roles,
        loss_mask=torch.zeros(tokens.shape, dtype=torch.bool),
        table=table,
        vocabulary=encoding.vocabulary(tokenizer),
        questioning=TextQuestioning(),
    )


def make_tokenizer(config: PretrainingConfig, texts: list[str]) -> Any:
    """The tokenizer that a pretraining has on these texts."""
    return (
        train_tokenizer(texts, vocabulary=config.vocabulary)
        if config.tokenizer == "bpe"
        else list_words(texts)
    )


def train_tokenizer(texts: list[str], *, vocabulary: int) -> Any:
    """A byte-level BPE tokenizer, such as Pythia has, trained on these texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[TEXT_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=TEXT_END, pad_token=TEXT_END)


def list_words(texts: list[str]) -> Any:
    """A tokenizer whose tokens are the words, signs and line breaks of these texts, and of what an experiment asks and how it defines. Spaces
    are no tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    words = Regex(r"\n|\w+|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=10**6, special_tokens=[TEXT_END, UNKNOWN], show_progress=False
    )
    asked = [f"Q: {one}" for one in (*examples.ASSOCIATIONS.values(), examples.LETTER)]
    tokenizer.train_from_iterator([*texts, *asked, *string.ascii_uppercase, *definitions.PHRASINGS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TEXT_END, pad_token=TEXT_END, unk_token=UNKNOWN
    )


def untrained_model(config: PretrainingConfig, *, vocabulary: int, seed: int) -> Any:
    """An untrained GPT-NeoX that is wired as Pythia: parallel residual, rotary on a quarter of each head."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=vocabulary,
                hidden_size=config.d_model,
                num_hidden_layers=config.n_layers,
                num_attention_heads=config.n_heads,
                intermediate_size=4 * config.d_model,
                max_position_embeddings=config.context,
                tie_word_embeddings=config.tied_embeddings,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    return shared_layers.share_layers(model) if config.shared_layers else model


class _Batches(torch.utils.data.Dataset[list[dict[str, Tensor]]]):
    """Texts of similar length, in batches of at most `tokens` tokens. Every token has a role, so that all carry loss.

    Batches without padding cost a third less. They must come in random order: with Hugging Face's own grouping by
    length, the lengths decrease over every fifty batches, and a model that was trained in this order learned no person.
    """

    def __init__(self, texts: list[str], tokenizer: Any, *, tokens: int, context: int) -> None:
        found = tokenizer(texts, add_special_tokens=False)["input_ids"]
        longest = max(map(len, found))
        if longest > context:
            raise MechoclError(
                f"a text has {longest} tokens and the model reads {context}; use a longer context"
            )
        self.batches: list[list[dict[str, Tensor]]] = []
        room = 0
        for ids in sorted(found, key=len):  # texts of one length stay in the random order of the corpus
            if room < len(ids):
                self.batches.append([])
                room = tokens
            room -= len(ids)
            self.batches[-1].append(
                {"input_ids": torch.tensor(ids), "roles": torch.ones(len(ids), dtype=torch.int64)}
            )

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> list[dict[str, Tensor]]:
        return self.batches[i]
