"""Text <-> ids of Whisper's vocabulary, with the tokens that say language and task.

tokenizer = WhisperTokenizer.from_pretrained("DIR").for_language("tr")
tokenizer.encode("Iğdır'da")                  # labels: language, task, notimestamps, text, end
"""

import copy
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from w2v.errors import InputError, named, show
from w2v.files import write_json, write_text
from w2v.text.bpe import CHARACTERS, REMEDY, BytePairs
from w2v.text.tokenizer_folder import check_ids
from w2v.text.whisper_languages import (
    END,
    LANGUAGES,
    NEAR,
    NO_SPEECH,
    NO_TIMESTAMPS,
    PREVIOUS,
    START,
    TASKS,
    TIMESTAMPS,
    UNSPACED,
    candidates,
    special_tokens,
)
from w2v.text.whisper_tokenizer_folder import is_control, read_whisper_tokenizer

LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")
TRANSLATE, TRANSCRIBE = TASKS


class WhisperTokenizer:
    """Whisper's byte-level tokens in the layout of transformers' WhisperTokenizer.

    Any text has ids and comes back from them as it was. Special tokens have the form <|...|>; text that looks like
    one stays text (transformers would take it for the token), so that a sentence cannot hold an end.

    vocab: token -> id, text tokens in GPT-2's spelling, all special tokens and timestamps. merges: see BytePairs.
    added: tokens that somebody added to Whisper's, and whether they are special: those that are not are text, which
    decode writes and encode never makes. language: Whisper's code, or None where it is to be detected; English-only
    models have no language tokens. task: "transcribe", or "translate" into English.
    InputError where ids are not 0 to len(vocab) - 1, each once, where a special token is missing, or where the merges
    do not fit.
    """

    phonemes, do_lower_case = False, False
    space: str | None = None
    unk: str | None = None

    @property
    def between(self) -> str:
        """What stands between the texts of two stretches of speech."""
        return "" if self.language in UNSPACED else " "

    def __init__(
        self,
        vocab: dict[str, int],
        merges: Iterable[Sequence[str]] | None,
        added: Mapping[str, bool] | None = None,
        is_multilingual: bool = True,
        language: str | None = None,
        task: str = TRANSCRIBE,
    ):
        check_ids(vocab)
        self.vocab, self.added, self.is_multilingual = dict(vocab), dict(added or {}), is_multilingual
        self.tokens = sorted(self.vocab, key=self.vocab.__getitem__)
        self.eos_id, self.sot_id = self._special(END), self._special(START)
        self.transcribe_id, self.translate_id = self._special(f"<|{TRANSCRIBE}|>"), self._special(f"<|{TRANSLATE}|>")
        self.no_timestamps_id, self.prev_id = self._special(NO_TIMESTAMPS), self._special(PREVIOUS)
        self.no_speech_id = self._special(*NO_SPEECH)
        self.timestamp_begin = self._special(TIMESTAMPS[0])
        for i, token in enumerate(TIMESTAMPS, self.timestamp_begin):
            if self._special(token) != i:
                raise InputError(f"timestamps must have ids in their order, {token} has {self.vocab[token]}; {REMEDY}")
        self.language_ids: dict[str, int] = {}
        if is_multilingual:
            found = ((LANGUAGE_TOKEN.fullmatch(token), i) for i, token in enumerate(self.tokens))
            self.language_ids = {match[1]: i for match, i in found if match}
            if not self.language_ids:
                raise InputError(
                    f"a multilingual Whisper vocabulary must hold a language token, none is there; {REMEDY}"
                )
        self._words = {token: i for token, i in self.vocab.items() if not is_control(token) and token not in self.added}
        self._pairs = BytePairs(self._words, merges)
        self._text = {i: self._pairs.bytes_of([i]) for i in self._words.values()}  # what an id writes
        self._text |= {self.vocab[token]: token.encode() for token, special in self.added.items()
                       if not special and token in self.vocab}  # fmt: skip
        self.language = None if is_multilingual else "en"
        if language is not None:
            self.language = self._require(language, "`language`")
        self.task = _checked_task(task)

    def _special(self, *names: str) -> int:
        for name in names:
            if name in self.vocab:
                return self.vocab[name]
        raise InputError(f"a Whisper vocabulary must hold its special tokens, {names[0]} is missing; {REMEDY}")

    def __len__(self) -> int:
        return len(self.vocab)

    def same_vocabulary(self, other: object) -> bool:
        """Whether each id means the same to the other tokenizer, which may be none or of another kind."""
        return isinstance(other, WhisperTokenizer) and self.tokens == other.tokens

    # --- languages

    def for_language(self, lang: str, prompt_language: str | None = None, task: str = TRANSCRIBE) -> "WhisperTokenizer":
        """The same tokenizer, set to a Common Voice locale: the language token of zh-CN is <|zh|>, of nb-NO <|no|>.

        prompt_language: which language token instead, for a locale that has none. InputError for a locale without
        one, for a `prompt_language` without one, and for any language but English where the model has no other.
        """
        if not self.is_multilingual:
            for wanted in (lang, prompt_language):
                if wanted is not None and "en" not in candidates(wanted):
                    raise InputError(
                        f"English-only weights cannot be used for {named(wanted)}; "
                        "use the multilingual model of the same size"
                    )
            code: str | None = "en"
        elif prompt_language is not None:
            code = self._require(prompt_language, "`prompt_language`")
        else:
            code = self._code(lang)
        if code is None:
            near = self._near(lang)
            raise InputError(
                f"Whisper has no token for {named(lang)}; give `prompt_language` of a language near it that it has"
                + (f", such as {near}" if near else "")
            )
        other = copy.copy(self)
        other.language, other.task = code, _checked_task(task)
        return other

    def _code(self, lang: str) -> str | None:
        """The code in the vocabulary for a locale, a code, a token or an English name."""
        return next((code for code in candidates(lang) if code in self.language_ids), None)

    def _near(self, lang: str) -> str | None:
        """A language to give in place of one that has no token."""
        return next((near for code in candidates(lang) if (near := NEAR.get(code)) in self.language_ids), None)

    def _require(self, lang: str, argument: str) -> str:
        code = self._code(lang) if self.is_multilingual else "en" if "en" in candidates(lang) else None
        if code is None:
            near, some = self._near(lang), ", ".join(list(self.language_ids)[:10])
            raise InputError(
                f"{argument} must be a language that the model has a token for, got {show(lang)}; give "
                + (f"{near}, which is near it, or " if near else "")
                + (f"one of {some} ..." if some else "en")
            )
        return code

    # --- text to ids

    def prompt(self, timestamps: bool = False) -> list[int]:
        """What the decoder is given first: start, language and task (multilingual), notimestamps where none are wanted.

        InputError where the language is not set.
        """
        last = [] if timestamps else [self.no_timestamps_id]
        if not self.is_multilingual:
            return [self.sot_id, *last]
        if self.language is None:
            raise InputError(
                "a multilingual Whisper model must be told the language, it is not set; "
                "use for_language, or from_pretrained with `target_lang`"
            )
        task_id = self.translate_id if self.task == TRANSLATE else self.transcribe_id
        return [self.sot_id, self.language_ids[self.language], task_id, *last]

    def encode(self, text: str) -> list[int]:
        """Labels of a text: the prompt without its start, the text, the end: as transformers' recipes train.

        InputError where the language is not set.
        """
        return [*self.prompt()[1:], *self.encode_text(text), self.eos_id]

    def encode_text(self, text: str) -> list[int]:
        return self._pairs.encode(text)

    def unknown(self, text: str) -> list[str]:
        """Nothing: each byte has a token."""
        return []

    def pieces(self, text: str) -> list[str]:
        return list(text)

    # --- ids to text

    def decode(self, ids: Iterable[int], group_tokens: bool = True) -> str:
        """The text of ids, stripped; special tokens and timestamps are left out.

        group_tokens: only there because CTC's tokenizers have it.
        """
        return self.text_of(ids).strip()

    def text_of(self, ids: Iterable[int]) -> str:
        """As decode, with the spaces at both ends. Bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._text.get(int(i), b"") for i in ids).decode("utf-8", "replace")

    def split_to_words(self, ids: Iterable[int]) -> list[tuple[str, list[int]]]:
        """Words and their tokens, as openai/whisper's split_to_word_tokens; ids that are no text are left out.

        Tokens are joined until they end at a character's end. A word begins with a space or is punctuation; in
        languages without spaces each of the joined tokens is one.
        """
        groups: list[list[int]] = []
        for i in map(int, ids):
            data = self._text.get(i)
            if data is None:
                continue
            if groups and data[:1] and 0x80 <= data[0] < 0xC0:  # the rest of a character in UTF-8
                groups[-1].append(i)
            else:
                groups.append([i])
        words: list[tuple[str, list[int]]] = []
        for group in groups:
            text = self.text_of(group)
            is_word = self.language in UNSPACED or text.startswith(" ") or text.strip() in string.punctuation
            if is_word or not words:
                words.append((text, group))
            else:
                before, tokens = words[-1]
                words[-1] = before + text, tokens + group
        return words

    # --- folders

    @classmethod
    def from_texts(cls, texts: Iterable[str], exclude: Iterable[str] = ()) -> "WhisperTokenizer":
        """A vocabulary for fresh weights: the bytes, no merges, all special tokens. It is the same for any texts."""
        by_id = [*sorted(CHARACTERS), *special_tokens()]  # GPT-2's order of bytes
        return cls({token: i for i, token in enumerate(by_id)}, [])

    @classmethod
    def from_pretrained(cls, directory: str | Path, target_lang: str | None = None) -> "WhisperTokenizer":
        """Read vocab.json and merges.txt with the files of further tokens, tokenizer.json, or OpenAI's *.tiktoken.

        target_lang: a Common Voice locale, a code or an English name; default: what generation_config.json or
        tokenizer_config.json says, else None. InputError where files are missing or broken, or for an unknown language.
        """
        found = read_whisper_tokenizer(directory)
        tokenizer = cls(found.vocab, found.merges, found.added, found.is_multilingual)
        if target_lang is not None:
            tokenizer.language = tokenizer._require(target_lang, "`target_lang`")
        elif found.language is not None:
            tokenizer.language = tokenizer._require(found.language, f"language in {directory}")
        if found.task is not None:
            tokenizer.task = _checked_task(found.task)
        return tokenizer

    def save_pretrained(self, directory: str | Path) -> None:
        """Write vocab.json, merges.txt, added_tokens.json, tokenizer_config.json and special_tokens_map.json.

        transformers' WhisperTokenizer and AutoTokenizer read them: timestamps are not special there, as published.
        """
        directory = Path(directory)
        further = {token: i for i, token in enumerate(self.tokens) if token not in self._words}
        special = [
            token for token in further if self.added.get(token, not 0 <= further[token] - self.timestamp_begin <= 1500)
        ]
        names = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END)
        listed_tokens = {**names, "additional_special_tokens": special}
        entries = {
            str(i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                     "special": token in special}
            for token, i in further.items()
        }  # fmt: skip
        config: dict = {
            "tokenizer_class": "WhisperTokenizer",
            "processor_class": "WhisperProcessor",
            **listed_tokens,
            "model_max_length": 1024,
            "add_prefix_space": False,
            "errors": "replace",
            "clean_up_tokenization_spaces": False,
            "is_multilingual": self.is_multilingual,
            "added_tokens_decoder": entries,
        }
        if self.is_multilingual and self.language in LANGUAGES:  # transformers knows no others
            config |= {"language": self.language, "task": self.task}
        write_json(directory / "vocab.json", self._words | {END: self.eos_id})
        merges = "".join(f"{left} {right}\n" for left, right in self._pairs.merges)
        write_text(directory / "merges.txt", "#version: 0.2\n" + merges)
        write_json(directory / "added_tokens.json", {t: i for t, i in further.items() if t != END})
        write_json(directory / "tokenizer_config.json", config)
        write_json(directory / "special_tokens_map.json", listed_tokens)


def _checked_task(task: str) -> str:
    if task not in TASKS:
        raise InputError(f"`task` must be {TRANSCRIBE} or {TRANSLATE}, got {show(task)}; leave it out")
    return task
