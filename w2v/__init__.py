"""w2v: wav2vec 2.0 and Whisper in plain PyTorch, for fine-tuning speech recognition on Common Voice in any language.

import w2v

model = w2v.Wav2Vec2ForCTC.from_pretrained("DIR")
out = model(waveforms, waveform_lengths)      # out.logits (B, T, V), out.logit_lengths (B,)
loss = w2v.ctc_loss(out, labels, label_lengths)
w2v.load("DIR").transcribe(["a.mp3"])[0].text
"""

from w2v.answers import Batch, DecodeOptions, GenerateOptions
from w2v.asr import Recogniser, Transcript, load
from w2v.audio import normalise, read_audio
from w2v.ctc import ctc_loss, ctc_losses, frames_needed
from w2v.data.batching import BatchSampler
from w2v.decoding.ctc import greedy_decode
from w2v.errors import InputError
from w2v.masking import span_mask
from w2v.metrics import error_rates
from w2v.models.ctc_answers import CTCOutput
from w2v.models.families import FAMILIES
from w2v.models.w2v_bert import Wav2Vec2BertForCTC, Wav2Vec2BertModel
from w2v.models.w2v_bert_config import W2V_BERT_2, Wav2Vec2BertConfig
from w2v.models.wav2vec2 import Wav2Vec2ForCTC, Wav2Vec2Model
from w2v.models.wav2vec2_config import (
    BASE,
    CONFIGS,
    LARGE_LV60,
    TINY,
    XLS_R_1B,
    XLS_R_2B,
    XLS_R_300M,
    XLSR_53,
    Wav2Vec2Config,
)
from w2v.models.whisper import WhisperForConditionalGeneration
from w2v.models.whisper_config import WhisperConfig
from w2v.resampling import resample
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import CharTokenizer
from w2v.text.whisper_tokenizer import WhisperTokenizer

__version__ = "0.1.0"

__all__ = [
    "BASE",
    "CONFIGS",
    "FAMILIES",
    "LARGE_LV60",
    "TINY",
    "W2V_BERT_2",
    "XLSR_53",
    "XLS_R_1B",
    "XLS_R_2B",
    "XLS_R_300M",
    "Batch",
    "BatchSampler",
    "CTCOutput",
    "CharTokenizer",
    "DecodeOptions",
    "GenerateOptions",
    "InputError",
    "Normaliser",
    "Recogniser",
    "Transcript",
    "Wav2Vec2BertConfig",
    "Wav2Vec2BertForCTC",
    "Wav2Vec2BertModel",
    "Wav2Vec2Config",
    "Wav2Vec2ForCTC",
    "Wav2Vec2Model",
    "WhisperConfig",
    "WhisperForConditionalGeneration",
    "WhisperTokenizer",
    "ctc_loss",
    "ctc_losses",
    "error_rates",
    "frames_needed",
    "greedy_decode",
    "load",
    "normalise",
    "read_audio",
    "resample",
    "span_mask",
]
