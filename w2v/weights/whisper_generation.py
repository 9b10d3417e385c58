"""What a Whisper folder holds beside weights and sizes: token ids, generation_config.json, preprocessor_config.json.

All follow from the size of the vocabulary and, for the heads that follow the speech, from the published shapes.
Sources: openai/whisper c0d2f62 (tokenizer.py, __init__.py), and the files of openai/whisper-base on the Hub.
"""

from collections.abc import Sequence
from typing import NamedTuple

from w2v.errors import InputError, show
from w2v.text.whisper_languages import LANGUAGES

ENGLISH, MULTILINGUAL, CANTONESE = 51864, 51865, 51866  # the published vocabularies; the last is large-v3's
# Tokens of what nobody says, "(" or "♪♪": OpenAI's `non_speech_tokens`, worked out with each of its two vocabularies.
NON_SPEECH_ENGLISH = """
1 2 7 8 9 10 14 25 26 27 28 29 31 58 59 60 61 62 63 90 91 92 93 357 366 438 532 685 705 796 930 1058 1220 1267 1279
1303 1343 1377 1391 1635 1782 1875 2162 2361 2488 3467 4008 4211 4600 4808 5299 5855 6329 7203 9609 9959 10563 10786
11420 11709 11907 13163 13697 13700 14808 15306 16410 16791 17992 19203 19510 20724 22305 22935 27007 30109 30420 33409
34949 40283 40493 40549 47282 49146
"""
NON_SPEECH_MULTILINGUAL = """
1 2 7 8 9 10 14 25 26 27 28 29 31 58 59 60 61 62 63 90 91 92 93 359 503 522 542 873 893 902 918 922 931 1350 1853 1982
2460 2627 3246 3253 3268 3536 3846 3961 4183 4667 6585 6647 7273 9061 9383 10428 10929 11938 12033 12331 12562 13793
14157 14635 15265 15618 16553 16604 18362 18956 20075 21675 22520 26130 26161 26435 28279 29464 31650 32302 32470 36865
42863 47425 49870 50254
"""
SPACE = 220  # a lone space, in every vocabulary
# Name -> width, encoder and decoder layers, vocabulary; the heads whose attention follows the speech, as layer/head.
PUBLISHED = {
    "tiny.en": ((384, 4, 4, ENGLISH), "1/0 2/0 2/5 3/0 3/1 3/2 3/3 3/4"),
    "tiny": ((384, 4, 4, MULTILINGUAL), "2/2 3/0 3/2 3/3 3/4 3/5"),
    "base.en": ((512, 6, 6, ENGLISH), "3/3 4/7 5/1 5/5 5/7"),
    "base": ((512, 6, 6, MULTILINGUAL), "3/1 4/2 4/3 4/7 5/1 5/2 5/4 5/6"),
    "small.en": (
        (768, 12, 12, ENGLISH),
        "6/6 7/0 7/3 7/8 8/2 8/5 8/7 9/0 9/4 9/8 9/10 10/0 10/1 10/2 10/3 10/6 10/11 11/2 11/4",
    ),
    "small": ((768, 12, 12, MULTILINGUAL), "5/3 5/9 8/0 8/4 8/7 8/8 9/0 9/7 9/9 10/5"),
    "medium.en": (
        (1024, 24, 24, ENGLISH),
        "11/4 14/1 14/12 14/14 15/4 16/0 16/4 16/9 17/12 17/14 18/7 18/10 18/15 20/0 20/3 20/9 20/14 21/12",
    ),
    "medium": ((1024, 24, 24, MULTILINGUAL), "13/15 15/4 15/15 16/1 20/0 23/4"),
    "large-v1": ((1280, 32, 32, MULTILINGUAL), "9/19 11/2 11/4 11/17 22/7 22/11 22/17 23/2 23/15"),
    "large-v2": (
        (1280, 32, 32, MULTILINGUAL),
        "10/12 13/17 16/11 16/12 16/13 17/15 17/16 18/4 18/11 18/19 19/11 21/2 21/3 22/3 22/9 22/12 23/5 23/7 23/13 "
        "25/5 26/1 26/12 27/15",
    ),
    "large-v3": ((1280, 32, 32, CANTONESE), "7/0 10/17 12/18 13/12 16/1 17/14 19/11 21/4 24/1 25/6"),
    "large-v3-turbo": ((1280, 32, 4, CANTONESE), "2/4 2/11 3/3 3/6 3/11 3/14"),
}
# Whose named heads are worse than all of the upper half: word starts of five readings that pocketsphinx aligned lie .12
# and .055 s off with them in the median, .08 and .04 s with all. No other model was measured.
WORSE_THAN_ALL = ("tiny.en", "base")
# Where a vocabulary's files are: all multilingual models but the last two share them.
VOCABULARIES = {
    ENGLISH: "openai/whisper-tiny.en",
    MULTILINGUAL: "openai/whisper-base",
    CANTONESE: "openai/whisper-large-v3",
}
SHAPE = ("d_model", "encoder_layers", "decoder_layers", "vocab_size")
MOST_HEADS, MOST = 256, 10_000_000  # layers or heads, eight times the published; any other size


class TokenIds(NamedTuple):
    """Ids of the special tokens. The language tokens lie between `start` and `translate`."""

    end: int  # <|endoftext|>, which also pads
    start: int  # <|startoftranscript|>
    translate: int
    transcribe: int
    language_model: int  # <|startoflm|>
    previous: int  # <|startofprev|>: before the text that came earlier
    no_speech: int
    no_timestamps: int


def token_ids(vocab_size: int) -> TokenIds:
    """The special tokens of a published vocabulary; InputError for another."""
    if vocab_size not in VOCABULARIES:
        known = ", ".join(map(str, VOCABULARIES))
        raise InputError(f"token ids are known for vocabularies of {known}, got {show(vocab_size)}; give a config.json")
    end = 50256 if vocab_size == ENGLISH else 50257
    translate = end + 2 + languages(vocab_size)
    return TokenIds(end, end + 1, *range(translate, translate + 6))


def languages(vocab_size: int) -> int:
    """How many languages have a token. The English-only models have them too, and use none."""
    return len(LANGUAGES) if vocab_size == CANTONESE else len(LANGUAGES) - 1


def token_fields(vocab_size: int) -> dict:
    """The special tokens as config.json and generation_config.json both have them."""
    ids = token_ids(vocab_size)
    return {
        "bos_token_id": ids.end,
        "eos_token_id": ids.end,
        "pad_token_id": ids.end,
        "decoder_start_token_id": ids.start,
        "begin_suppress_tokens": [SPACE, ids.end],
    }


def count(fields: dict, name: str) -> int:
    """A size in the settings of a model; InputError where it is missing or none that a model could have."""
    value = fields.get(name)
    most = MOST_HEADS if name.removesuffix("s").endswith(("layer", "head")) else MOST
    if type(value) is not int or not 1 <= value <= most:
        raise InputError(f"{name} must be a number from 1 to {most}, got {show(value)}; use the model's own settings")
    return value


def generation_of(fields: dict, name: str = "") -> dict:
    """generation_config.json from a config.json's fields, equal to the published one where the shape is published.

    name: of a published model, to tell those of one shape apart (large-v1 from large-v2). Lists of suppressed tokens in
    the config are kept: fine-tuned models of 2022 have theirs there. forced_decoder_ids, which goes before a language
    that one asks for, is not written. Raises InputError for a vocabulary that is not published.
    """
    vocab_size = count(fields, "vocab_size")
    ids = token_ids(vocab_size)
    non_speech = NON_SPEECH_ENGLISH if vocab_size == ENGLISH else NON_SPEECH_MULTILINGUAL
    never = (ids.start, ids.translate, ids.transcribe, ids.language_model, ids.previous, ids.no_speech)
    generation = token_fields(vocab_size) | {
        "alignment_heads": alignment_heads(fields, name),
        "is_multilingual": vocab_size != ENGLISH,
        "max_initial_timestamp_index": 50,  # 1.0 s
        "max_length": 448,
        "no_timestamps_token_id": ids.no_timestamps,
        "prev_sot_token_id": ids.previous,
        "return_timestamps": False,
        "suppress_tokens": [*map(int, non_speech.split()), *never],
    }
    if vocab_size != ENGLISH:
        codes = list(LANGUAGES)[: languages(vocab_size)]
        generation["lang_to_id"] = {f"<|{code}|>": ids.start + 1 + i for i, code in enumerate(codes)}
        generation["task_to_id"] = {"transcribe": ids.transcribe, "translate": ids.translate}
    for key in ("suppress_tokens", "begin_suppress_tokens"):
        if isinstance(own := fields.get(key), list) and all(type(token) is int for token in own):
            generation[key] = own
    return generation


def alignment_heads(fields: dict, name: str = "") -> list[list[int]]:
    """[layer, head] of the decoder's heads that follow the speech, for word times.

    Those of the published model of this shape. Where there is none, or several and `name` is none of them: all heads of
    the upper half of the layers, as OpenAI's code takes them for a file.
    """
    shape = tuple(count(fields, key) for key in SHAPE)
    found = {known: heads for known, (its, heads) in PUBLISHED.items() if its == shape}
    if len(found) == 1 or name in found:
        return _pairs(found.get(name) or next(iter(found.values())))
    return _upper_half(count(fields, "decoder_layers"), count(fields, "decoder_attention_heads"))


def heads_for_times(named: Sequence[Sequence[int]], layers: int, heads: int) -> list[list[int]]:
    """[layer, head] by which words get their times, of a decoder with so many layers and heads in each.

    The named ones. All of the upper half where none is named, and where that was measured to be better.
    """
    pairs = [list(pair) for pair in named]
    worse = [_pairs(PUBLISHED[name][1]) for name in WORSE_THAN_ALL]
    return pairs if pairs and pairs not in worse else _upper_half(layers, heads)


def _pairs(heads: str) -> list[list[int]]:
    return [[int(number) for number in head.split("/")] for head in heads.split()]


def _upper_half(layers: int, heads: int) -> list[list[int]]:
    return [[layer, head] for layer in range(layers // 2, layers) for head in range(heads)]


def processor_of(fields: dict) -> dict:
    """preprocessor_config.json: 30 s of log-mel at 16 kHz, with as many bands as the model takes."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": count(fields, "num_mel_bins"),
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "n_samples": 480_000,
        "nb_max_frames": 3_000,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }
