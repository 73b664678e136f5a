"""A tokenizer of a toy world's words, so that TransformerLens's helpers read and write its examples as text.

In a text, spaces separate the tokens: `tag 1 alias 223 % 7`. A word that is followed by its number (`tag 1`, `alias 223`, `letter 7`)
is one token; the space between them may be left out (`tag1`). A number by itself is an integer. So a text stands for one row of tokens,
and `to_string` writes the text that `to_tokens` reads.
"""

import re
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from toy_models.task import Vocabulary


class WordTokenizer(PreTrainedTokenizerFast):
    """A tokenizer of a world's words. It refuses a word that is no token by its name (`Vocabulary.encode`), and does not cut a text that is too long."""

    words: Vocabulary
    """The world's tokens."""

    def _encode_plus(self, text: Any, *args: Any, max_length: int | None = None, **kwargs: Any) -> Any:
        for one in [text] if isinstance(text, str) else text:
            count = len(self.words.encode(one))
            if max_length is not None and count > max_length:  # what is asked at the end would be cut off
                raise ValueError(
                    f"{one!r} has {count} tokens, and the model reads at most {max_length}; shorten it"
                )
        return super()._encode_plus(text, *args, max_length=max_length, **kwargs)


def word_tokenizer(vocabulary: Vocabulary) -> Any:
    """A fast Hugging Face tokenizer of the vocabulary, built in memory.

    Its ids are those of the vocabulary. It adds no token at the beginning or end, and pads with the vocabulary's `·`, id 0, on the
    right. It raises ValueError for a word that is no token, and for a world of texts, whose model brings its own.
    """
    if vocabulary.of_text is not None or vocabulary.padded:
        raise ValueError("this vocabulary is that of texts; use the tokenizer of its model")
    kinds = sorted({token.split()[0] for token in vocabulary.tokens if " " in token})
    numbered = "|".join(map(re.escape, kinds)) or "(?!)"
    words = Tokenizer(WordLevel({token: i for i, token in enumerate(vocabulary.tokens)}))
    words.normalizer = normalizers.Replace(Regex(rf"(?<=\b(?:{numbered}))\s*(?=\d)"), " ")
    words.pre_tokenizer = pre_tokenizers.Split(Regex(rf"(?:{numbered}) \d+|\S+"), "removed", invert=True)
    first = vocabulary.tokens[0]  # `model.generate` asks for a token that ends a text
    made = WordTokenizer(tokenizer_object=words, pad_token=first, eos_token=first, padding_side="right")
    made.words = vocabulary
    return made


def give_tokenizer(model: Any, vocabulary: Vocabulary) -> Any:
    """Give a `HookedTransformer` the tokenizer of its world, and return the model. Its weights and its answers stay as they are.

    `model.to_tokens`, `to_string`, `to_str_tokens`, `to_single_token` and `model("alias 223 % 7 =")` then work. No token is put in front of
    a text (`default_prepend_bos` is False), as none is in training. Raises ValueError for a world of texts, and where the model has not
    an embedding for each token.
    """
    if model.cfg.d_vocab != len(vocabulary):
        raise ValueError(
            f"the model has {model.cfg.d_vocab} embeddings, and the vocabulary {len(vocabulary)} tokens; use those of one world"
        )
    model.tokenizer = word_tokenizer(vocabulary)
    model.cfg.tokenizer_prepends_bos = False
    model.cfg.default_prepend_bos = False
    return model
