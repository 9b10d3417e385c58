"""The families of models, by the model_type in a checkpoint's config.json.

A family is one row here. Whoever loads, prepares, trains or exports asks the family's config and model the questions
that docs/ARCHITECTURE.md lists, and looks at nothing else.
"""

from typing import Any, NamedTuple

from w2v.errors import InputError, show
from w2v.models import w2v_bert_config, wav2vec2_config, whisper_config
from w2v.models.w2v_bert import Wav2Vec2BertForCTC
from w2v.models.wav2vec2 import Wav2Vec2ForCTC
from w2v.models.whisper import WhisperForConditionalGeneration
from w2v.text.tokenizer import CharTokenizer
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.weights import w2v_bert, wav2vec2


class Family(NamedTuple):
    model_type: str  # its key in FAMILIES
    title: str  # for people
    config: type[Any]
    model: type[Any]
    tokenizer: type[Any]
    head: str  # how the names of the tensors begin that belong to a vocabulary; "": its vocabulary is part of a model
    shapes: dict[str, Any]  # configs by name, for fresh weights and for what the published models look like
    published: dict[str, str]  # the name of a published model -> its public repository


FAMILIES: dict[str, Family] = {
    "wav2vec2": Family(
        "wav2vec2",
        "wav2vec 2.0",
        wav2vec2_config.Wav2Vec2Config,
        Wav2Vec2ForCTC,
        CharTokenizer,
        wav2vec2.HEAD,
        wav2vec2_config.CONFIGS,
        {
            "xlsr-53": "facebook/wav2vec2-large-xlsr-53",
            "xls-r-300m": "facebook/wav2vec2-xls-r-300m",
            "xls-r-1b": "facebook/wav2vec2-xls-r-1b",
            "xls-r-2b": "facebook/wav2vec2-xls-r-2b",
            "mms-300m": "facebook/mms-300m",
            "mms-1b": "facebook/mms-1b",
            "mms-1b-all": "facebook/mms-1b-all",
            "base": "facebook/wav2vec2-base",
            "large-lv60": "facebook/wav2vec2-large-lv60",
        },
    ),
    "wav2vec2-bert": Family(
        "wav2vec2-bert",
        "W2V-BERT 2.0",
        w2v_bert_config.Wav2Vec2BertConfig,
        Wav2Vec2BertForCTC,
        CharTokenizer,
        w2v_bert.HEAD,
        w2v_bert_config.CONFIGS,
        {"w2v-bert-2.0": "facebook/w2v-bert-2.0"},
    ),
    "whisper": Family(
        "whisper",
        "Whisper",
        whisper_config.WhisperConfig,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
        "",
        whisper_config.CONFIGS,
        {name: f"openai/{name}" for name in whisper_config.CONFIGS},
    ),
}


def family_of(fields: dict) -> Family:
    """The family of a config.json. InputError where it is none of ours."""
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(
            f"the checkpoint's architecture must be one of {', '.join(FAMILIES)}, config.json says "
            f"{show(model_type)}; use another checkpoint"
        )
    return FAMILIES[model_type]


def shapes() -> dict[str, tuple[Family, Any]]:
    """Every config with a name, of all families: name -> family, config."""
    return {name: (family, config) for family in FAMILIES.values() for name, config in family.shapes.items()}


def published() -> dict[str, str]:
    """Every published model with a name, of all families: name -> repository."""
    return {name: repository for family in FAMILIES.values() for name, repository in family.published.items()}
