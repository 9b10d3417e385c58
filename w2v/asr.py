"""A fine-tuned folder as a recogniser.

asr = w2v.load("runs/tr-xlsr-53-1")
asr.transcribe("lecture.mp3")[0].text
asr.transcribe(["a.mp3", waveform], sample_rate=16000, words=True)
asr.transcribe("lecture.mp3", lm="lm.arpa")
asr.align("lecture.mp3", "what is said in it").words
asr.features("lecture.mp3", layer=9)          # (T, D)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from w2v import heads, hearing
from w2v.answers import TRANSCRIBING, DecodeOptions, FrameModel, GenerateOptions, Search, Word, WritingModel
from w2v.audio import SAMPLE_RATE, UnusableAudioError, finite_peak
from w2v.decoding.align import Alignment, align
from w2v.decoding.beam import BEAM, BeamSearch
from w2v.decoding.language_model import FILES, LanguageModel, fusion_of, has_language_model, load_language_model
from w2v.decoding.longform import Chunk, cut_into_chunks
from w2v.errors import InputError
from w2v.files import reading
from w2v.heard import Heard, Segment
from w2v.hearing import Frames
from w2v.models.families import Family, family_of
from w2v.recordings import read_blocks
from w2v.resampling import resample
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import CharTokenizer
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.text.words import WrittenWord, written_words
from w2v.weights import hf, hub

Recording = str | Path | np.ndarray | Tensor


@dataclass(frozen=True)
class Transcript:
    text: str
    segments: list[Segment] = field(default_factory=list)

    @property
    def words(self) -> list[Word]:
        return [word for segment in self.segments for word in segment.words]


@dataclass
class Recogniser:
    model: FrameModel | WritingModel
    tokenizer: Any  # the family's
    normaliser: Normaliser | None = None  # the folder's, where it has one
    lm: LanguageModel | None = None  # the folder's, where it has one

    def transcribe(
        self,
        recordings: Recording | Iterable[Recording],
        sample_rate: int = SAMPLE_RATE,
        words: bool = False,
        lm: LanguageModel | Search | str | Path | None = None,
        generate: GenerateOptions = TRANSCRIBING,
    ) -> list[Transcript]:
        """Files of any format and length, or mono waveforms (samples,) at `sample_rate`, -> one Transcript each.

        recordings: several, or a single one, which gives a list of one. words: also give each word's times and
        confidence. lm: a language model, the path of one, or a `search` that is used again; default: the folder's own.
        generate: how a model that writes its text itself does so.
        Silence (a peak under -60 dB of full scale) and less than one frame give "". Raises InputError with
        the recording's path or index: UnusableAudioError for a file that cannot be read or for samples that are not
        finite.
        """
        search: Search | None = lm if callable(lm) else None
        if not callable(lm) and (lm or self.lm):
            search = self.search(lm)
        options = DecodeOptions(words, search, generate)
        named = list(_several(recordings))
        segments: list[list[Segment]] = [[] for _ in named]
        for news in self.hear((blocks_of(each, sample_rate) for each in named), options):
            if news.error is not None:
                name = named[news.number]
                place = name if isinstance(name, (str, Path)) else f"recording {news.number}"
                raise type(news.error)(f"{place}: {news.error}")
            segments[news.number] += news.segments
        return [self.transcript(each) for each in segments]

    def search(
        self,
        lm: LanguageModel | str | Path | None = None,
        beam: int = BEAM,
        alpha: float | None = None,
        beta: float | None = None,
        hot_words: Mapping[str, float] | None = None,
        lexicon: Iterable[str] | None = None,
    ) -> BeamSearch | None:
        """A beam search with a language model (default: the folder's own), hot words with weights, or a lexicon.

        alpha, beta: in place of the language model's own weights. None where there is nothing to search with: greedy
        decoding is as good then. InputError where a language model cannot be read, or has no word of the vocabulary,
        and for numbers that are none.
        """
        if beam < 1:
            raise InputError(f"`beam` must be at least 1, got {beam}")
        if self.model.emissions is None:
            raise InputError(
                "a search with a language model or hot words needs frame posteriors, as CTC models give; this one "
                "writes its text itself: leave them out"
            )
        if isinstance(lm, (str, Path)):
            lm = load_language_model(lm, self.tokenizer)
        fusion = fusion_of(self.tokenizer, lm or self.lm, alpha, beta, hot_words, lexicon)
        return None if fusion is None else BeamSearch(self.tokenizer, fusion, beam)

    def transcript(self, segments: list[Segment]) -> Transcript:
        """The segments of one recording and their texts as one."""
        return Transcript(self.tokenizer.between.join(segment.text for segment in segments), segments)

    def emissions(self, recording: Recording, sample_rate: int = SAMPLE_RATE) -> Tensor:
        """The frame posteriors of a recording of any length, (T, V) log-probabilities; a frame is `hop` samples.

        InputError where the recording cannot be used, silence included, and where the model gives no posteriors.
        """
        heard = next(self.all_emissions([blocks_of(recording, sample_rate)]))
        if heard.error is not None:
            raise heard.error
        return heard.log_probs

    def all_emissions(self, recordings: Iterable[Iterable[np.ndarray]], precision: str = "fp32") -> Iterator[Frames]:
        """The frames of many recordings, each as blocks (samples,) at 16 kHz, in their order; batches by length."""
        return hearing.all_emissions(self.model, self.tokenizer, recordings, precision)

    @torch.no_grad()
    def features(self, recording: Recording, layer: int = -1, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
        """What a layer makes of a recording of any length, (T, D) float32, frames of 20 ms in published models.

        layer: 0 is what goes into the first one, 1 its output; -1 the last one's, after the norm behind it. Of a model
        that writes, the encoder's. A long recording is heard in chunks, as `transcribe` does it. Silence has features
        too. InputError where the recording cannot be used, holds no frame, or the model has no such layer.
        """
        config: Any = self.model.config
        waveform = np.concatenate([np.empty(0, np.float32), *blocks_of(recording, sample_rate)])
        if config.frames(len(waveform)) < 1:
            raise UnusableAudioError(f"a recording must have a frame, got {len(waveform)} samples; leave it out")
        device, training = next(self.model.parameters()).device, self.model.training
        self.model.eval()
        try:
            pieces = []
            for chunk in _chunks(config, waveform, self.model.emissions is None):
                states = self.model.hidden_states(config.collate([chunk.samples]).to(device))
                if not -len(states.layers) <= layer < len(states.layers):
                    most = len(states.layers) - 1
                    raise InputError(f"`layer` must be from 0 to {most}, or -1 for the last, got {layer}; give another")
                rows = states.layers[layer][0, : int(states.lengths)]
                pieces.append(chunk.core(rows, round(states.seconds_per_frame * SAMPLE_RATE)).float().cpu().numpy())
        finally:
            self.model.train(training)
        return np.concatenate(pieces)

    def align(
        self, recording: Recording, text: str, lang: str | None = None, sample_rate: int = SAMPLE_RATE
    ) -> Alignment:
        """Where each word of a known text is said in a recording of any length -> Alignment.

        lang: the text's locale, for a folder without text rules of its own. InputError where the recording cannot be
        used, where the text holds no word or more than the recording has frames for, and where `lang` is needed.
        """
        words = self.written_words(text, lang)
        return self.align_frames(self.emissions(recording, sample_rate), words)

    def align_frames(self, log_probs: Tensor, words: list[WrittenWord]) -> Alignment:
        """The same for the frames (T, V) of `emissions`."""
        config: Any = self.model.config
        return align(log_probs, words, self.tokenizer, config.hop / SAMPLE_RATE)

    def written_words(self, text: str, lang: str | None = None) -> list[WrittenWord]:
        """The words of a text under the folder's text rules, or those of `lang`. Phonemes stay as they are."""
        if self.tokenizer.phonemes:
            return written_words(text, lambda phoneme: phoneme)
        normaliser = self.normaliser or (Normaliser(lang) if lang else None)
        if normaliser is None:
            raise InputError(
                "`lang` is needed for a model without normaliser.json; give the text's language, such as tr"
            )
        return written_words(text, normaliser, normaliser.lang)

    def hear(
        self,
        recordings: Iterable[Iterable[np.ndarray]],
        options: DecodeOptions | None = None,
        eager: bool = False,
    ) -> Iterator[Heard]:
        """Recordings, each as blocks (samples,) at 16 kHz, -> what is heard, as it is heard and in their order.

        eager: answer at each pause, for somebody who speaks, instead of computing much at once. A recording whose
        blocks raise InputError is over, and the others go on.
        """
        return hearing.hear(self.model, self.tokenizer, recordings, options=options, eager=eager)


def _several(recordings: Recording | Iterable[Recording]) -> Iterable[Recording]:
    """A single recording, which is a path or the samples of a waveform, becomes a list of one."""
    is_one = isinstance(recordings, (str, Path))
    if isinstance(recordings, Tensor):
        is_one = recordings.ndim == 1
    if isinstance(recordings, np.ndarray):
        is_one = recordings.ndim == 1 and np.issubdtype(recordings.dtype, np.number)
    return [cast(Recording, recordings)] if is_one else cast(Iterable[Recording], recordings)


def _chunks(config: Any, waveform: np.ndarray, in_windows: bool) -> Iterator[Chunk]:
    """What a model hears of a waveform at once: chunks with context around them, or windows end to end."""
    if not in_windows:
        yield from cut_into_chunks([waveform], config.hop)
        return
    for start in range(0, len(waveform), config.window):
        samples = waveform[start : start + config.window]
        yield Chunk(samples, start, start, start + len(samples))


def blocks_of(recording: Recording, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """A file, or a waveform at `sample_rate`, -> its blocks at 16 kHz, (samples,) float32.

    Raises InputError: UnusableAudioError for a file that cannot be read and for samples that are not finite.
    """
    blocks = read_blocks(recording) if isinstance(recording, (str, Path)) else [_from_samples(recording, sample_rate)]
    for block in blocks:
        finite_peak(block)
        yield block


def _from_samples(recording: np.ndarray | Tensor, sample_rate: int) -> np.ndarray:
    waveform = np.asarray(recording, dtype=np.float32)
    if waveform.ndim != 1:
        raise InputError(f"a waveform must be mono, (samples,), got shape {waveform.shape}; average its channels")
    return resample(np.ascontiguousarray(waveform), sample_rate)


def load(
    source: str | Path, device: str | torch.device = "cpu", target_lang: str | None = None, lm: bool = True
) -> Recogniser:
    """Model and tokenizer of a folder in transformers' layout, or of a Hub repository, owner/name[@revision].

    target_lang: a language of an MMS model (ISO 639-3: tur), whose adapter.LANG.safetensors is put in, one of the
    languages that a run was trained on (see w2v.heads), or the language that a Whisper model is told (tr); default: the
    one it was fine-tuned for, of several the first, else what it hears. lm: False leaves the folder's language model
    alone. InputError where model or tokenizer is missing or they differ.
    """
    folder = folder_of(source, target_lang, lm)
    family = family_of(hf.read_fields(folder))
    own = heads.folder_of_language(folder, target_lang, must=family.model.emissions is not None)  # Whisper knows more
    model = family.model.from_pretrained(folder)
    if own is not None and (own / heads.FILE).is_file():
        tokenizer = family.tokenizer.from_pretrained(own)
        heads.put_head(model, *heads.read_head(own, model.parts.head.in_features, tokenizer), tokenizer)
    else:
        tokenizer = family.tokenizer.from_pretrained(folder, target_lang)
        for name in _adapters(family, target_lang) if own is None else ():
            model.load_adapter(folder / name)
    model.config.check_vocabulary(tokenizer, folder)
    rules, lm_folder = own or folder, heads.folder_of_lm(folder, target_lang)
    return Recogniser(
        model.to(device),
        tokenizer,
        Normaliser.from_pretrained(rules) if (rules / "normaliser.json").is_file() else None,
        _language_model(lm_folder, tokenizer) if lm and has_language_model(lm_folder) else None,
    )


def _language_model(folder: Path, tokenizer: CharTokenizer) -> LanguageModel:
    try:
        return load_language_model(folder, tokenizer)
    except InputError as error:
        raise InputError(f"{error}; or leave it alone, `lm` none") from None


def folder_of(source: str | Path, target_lang: str | None = None, lm: bool = True) -> Path:
    """The folder itself where `source` is one, else that of a Hub repository in the Hub's cache, fetched into it.

    lm: with its language model, where it has one.
    """
    folder = Path(source)
    with reading("the model", folder):  # a name that is too long, a folder closed to the user
        is_here = folder.exists()
    if not is_here and hub.SPEC.fullmatch(str(source)):
        try:
            repository, revision = hub.parse_spec(str(source))
            of_languages = (f"{heads.FOLDER}/*",) if target_lang is not None else ()
            small = hub.fetch(repository, revision, weights=False, optional=of_languages)
            is_of_several = (small.folder / heads.FOLDER).is_dir()
            extra = () if is_of_several else _adapters(family_of(hf.fields_of_folder(small.folder)), target_lang)
            optional = (FILES if lm else ()) + of_languages
            return hub.fetch(repository, small.commit, extra, optional=optional).folder
        except InputError as error:
            raise InputError(f"{source} is no folder here, and {error}") from None
    if folder.is_file():
        raise InputError(
            f"a model must be a folder of weights, config and vocabulary, {folder} is a file; give the folder it lies "
            f"in, {folder.parent}"
        )
    return folder


def _adapters(family: Family, target_lang: str | None) -> tuple[str, ...]:
    """The files of a language, where the family has such."""
    has_them = target_lang is not None and hasattr(family.model, "load_adapter")
    return (f"adapter.{target_lang}.safetensors",) if has_them else ()


def recognise(
    model: FrameModel | WritingModel,
    tokenizer: CharTokenizer | WhisperTokenizer,
    waveforms: list[np.ndarray],
    precision: str = "fp32",
) -> list[str]:
    """The texts of 16 kHz waveforms (samples,), int16 or float32, in their order. The model keeps its mode."""
    asr = Recogniser(model, tokenizer)
    segments: list[list[Segment]] = [[] for _ in waveforms]
    for news in hearing.hear(model, tokenizer, ([waveform] for waveform in waveforms), precision):
        segments[news.number] += news.segments
    return [asr.transcript(each).text for each in segments]
