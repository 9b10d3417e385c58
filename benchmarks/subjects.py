"""The models that benchmarks.step_time times, of every family: random weights, a vocabulary, labels for noise.

Nothing is downloaded. Dropouts and masks are those of the family's fine-tuning recipe.
"""

import string
from collections.abc import Callable
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.speech import VOCABULARY, ctc_label
from recipes.presets import MODEL_FIELDS
from w2v.errors import InputError
from w2v.models.families import shapes
from w2v.text.bpe import CHARACTERS
from w2v.text.tokenizer import CharTokenizer
from w2v.text.whisper_languages import special_tokens
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.weights.hf import override

LANGUAGE = "tr"  # what Whisper is told
TOKENS_PER_SECOND = 3  # that Whisper's vocabulary has for Turkish Common Voice
PRINTABLE = string.digits + string.ascii_letters + string.punctuation
ENGLISH_END = 50256  # the end token of English-only models
NEVER = -1e4  # a logit
FEWEST_POSITIONS = 8  # of a Whisper's decoder


class Subject(NamedTuple):
    model: Any  # an nn.Module of ours, in fp32
    tokenizer: Any  # its family's


def known(name: str) -> str:
    """The name without `random:`. InputError where no family has it."""
    bare = name.removeprefix("random:")
    if bare not in shapes():
        raise InputError(f"--model must be one of {', '.join(shapes())}, got {name!r}")
    return bare


def tokenizer_for(name: str) -> Any:
    """A vocabulary for the model of this name: VOCABULARY characters, or as many tokens as Whisper's has."""
    family, config = shapes()[known(name)]
    return whisper_tokenizer(config) if family.tokenizer is WhisperTokenizer else characters()


def label_for(tokenizer: Any) -> Callable[[float, np.random.Generator], list[int]]:
    """So many seconds and a generator -> random label ids."""
    if not isinstance(tokenizer, WhisperTokenizer):
        return ctc_label

    def label(seconds: float, rng: np.random.Generator) -> list[int]:
        text = rng.integers(0, tokenizer.eos_id, max(1, int(seconds * TOKENS_PER_SECOND))).tolist()
        return [*tokenizer.prompt()[1:], *text, tokenizer.eos_id]

    return label


def build_subject(name: str, tokenizer: Any, writes_seconds: float | None = None) -> Subject:
    """The model of this name. W2V-BERT is without its adapter, whose padded batches transformers gets wrong.

    writes_seconds: of a model that is to write text: random letters instead of a single one, and as many tokens of
    Whisper as a clip this long has. With random weights no text ends by itself.
    """
    family, config = shapes()[known(name)]
    torch.manual_seed(0)
    fields = MODEL_FIELDS[family.model_type]["fine-tuning"] | config.for_vocabulary(tokenizer)
    if hasattr(config, "add_adapter"):
        fields["add_adapter"] = False
    if writes_seconds is not None and not family.head:
        tokens = len(tokenizer.prompt()) + int(writes_seconds * TOKENS_PER_SECOND)
        fields["max_target_positions"] = max(FEWEST_POSITIONS, tokens)
    model = family.model(override(config, fields))
    if writes_seconds is not None and family.head:
        torch.nn.init.normal_(model.lm_head.weight)
        with torch.no_grad():  # transformers writes it out, and here it stands for no text
            model.lm_head.bias[tokenizer.vocab["[UNK]"]] = NEVER
    return Subject(model, tokenizer)


def characters() -> CharTokenizer:
    """For CTC."""
    letters = islice(PRINTABLE.replace("|", ""), VOCABULARY - 3)
    return CharTokenizer({token: i for i, token in enumerate([*letters, "|", "[UNK]", "[PAD]"])})


def whisper_tokenizer(config: Any) -> WhisperTokenizer:
    """Of the config's size, with OpenAI's special tokens; texts are random printable characters."""
    size = config.eos_token_id  # of what comes before the special tokens
    longer = [(a, b) for a, b in product(PRINTABLE, repeat=2)]
    longer += [(a + b, c) for a, b, c in islice(product(PRINTABLE, repeat=3), size - len(CHARACTERS) - len(longer))]
    text = [*sorted(CHARACTERS), *(a + b for a, b in longer)]
    languages = config.vocab_size - size - len(special_tokens(0))
    vocab = {token: i for i, token in enumerate([*text, *special_tokens(languages)])}
    is_multilingual = size != ENGLISH_END
    tokenizer = WhisperTokenizer(vocab, longer, is_multilingual=is_multilingual)
    return tokenizer.for_language(LANGUAGE if is_multilingual else "en")
