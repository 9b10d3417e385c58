"""Text that a model writes token by token (Whisper): greedily, with a beam, or drawn at a temperature.

    texts = generate(model, heard, prompts, Rules.of(model, tokenizer), beam=5)
    hypotheses = decode(model, batch, tokenizer, DecodeOptions())

The model answers `hear`, `start`, `read` and `logits`. Behaviour and thresholds are openai/whisper's (c0d2f62); greedy
texts equal transformers'.

Shapes: B windows, T positions of the encoder, D width, P tokens of a prompt, V vocabulary. R rows: K sequences of each
window that is not finished.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from w2v.answers import Batch, Cache, DecodeOptions, GenerateOptions, Hypothesis, WritingConfig, WritingModel
from w2v.decoding.word_times import word_times
from w2v.errors import InputError
from w2v.text.whisper_tokenizer import WhisperTokenizer

FEWEST_LEFT_OUT = 1 / 8  # of the rows: fewer finished ones go on, because leaving them out copies the cache


class Written(NamedTuple):
    """What was written for one window."""

    tokens: list[int]  # of text and timestamps, without prompt and end
    log_prob: float  # of these and the end
    no_speech: float  # probability, as the model says before it writes
    temperature: float

    @property
    def mean_log_prob(self) -> float:
        return self.log_prob / (len(self.tokens) + 1)


@dataclass(frozen=True, eq=False)
class Rules:
    """Which tokens may come next. The first four are ids; masks are (V,) bool, True = never."""

    end: int
    no_speech: int
    no_timestamps: int
    first_timestamp: int
    never: Tensor
    never_first: Tensor
    timestamps: bool
    latest_start: int  # of the first timestamp, in steps of 20 ms

    @classmethod
    def of(cls, model: WritingModel, tokenizer: WhisperTokenizer, timestamps: bool = False) -> "Rules":
        generation, device = model.config.generation, next(model.parameters()).device

        def mask(ids: Sequence[int]) -> Tensor:
            never = torch.zeros(model.config.vocab_size, dtype=torch.bool)
            never[[i for i in ids if 0 <= i < len(never)]] = True  # -1 stands for none
            return never.to(device)

        return cls(
            tokenizer.eos_id,
            tokenizer.no_speech_id,
            tokenizer.no_timestamps_id,
            tokenizer.timestamp_begin,
            mask(generation.suppress_tokens),
            mask([*generation.suppress_tokens, *generation.begin_suppress_tokens]),
            timestamps,
            generation.max_initial_timestamp_index,
        )

    def log_probs(self, logits: Tensor, written: list[list[int]]) -> Tensor:
        """Logits (R, V) after what was written in each row -> log-probabilities (R, V), -inf where a rule forbids."""
        logits = logits.masked_fill(self.never if any(written) else self.never_first, -math.inf)
        if self.timestamps:
            logits = self._with_timestamps(logits, written)
        # A text ends where nothing may come, and where broken weights give no numbers.
        logits = logits.masked_fill(~logits.isfinite(), -math.inf)
        is_over = logits.amax(-1) == -math.inf  # (R,)
        logits[:, self.end] = logits[:, self.end].masked_fill(is_over, 0.0)
        return logits.log_softmax(-1)

    def _with_timestamps(self, logits: Tensor, written: list[list[int]]) -> Tensor:
        """Timestamps come in pairs, never fall, and the first is within a second of the window's start."""
        first, size = self.first_timestamp, logits.shape[1]
        forbidden = torch.zeros(logits.shape, dtype=torch.bool)
        forbidden[:, self.no_timestamps] = True
        for row, tokens in zip(forbidden, written, strict=True):
            if not tokens:
                row[:first] = True
                row[min(size, first + self.latest_start + 1) :] = True
                continue
            stamps = [token for token in tokens if token >= first]
            last_is_stamp = tokens[-1] >= first
            if last_is_stamp and (len(tokens) < 2 or tokens[-2] >= first):  # the pair is complete: text comes
                row[first:] = True
            elif last_is_stamp:  # one that ends a phrase: its pair comes, or the end
                row[: self.end] = True
            if stamps:  # equal to the last only where it closes a pair
                is_pair_open = last_is_stamp and not (len(tokens) < 2 or tokens[-2] >= first)
                row[first : stamps[-1] + (not is_pair_open)] = True
        logits = logits.masked_fill(forbidden.to(logits.device), -math.inf)
        log_probs = logits.log_softmax(-1)
        # Where timestamps together are likelier than any text, a timestamp it is.
        is_stamp = log_probs[:, first:].logsumexp(-1) > log_probs[:, :first].max(-1).values  # (R,)
        text = torch.arange(size, device=logits.device) < first
        return logits.masked_fill(is_stamp[:, None] & text, -math.inf)


def generate(
    model: WritingModel,
    heard: Tensor,
    prompts: list[list[int]],
    rules: Rules,
    beam: int = 1,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    start_of_text: int = 0,
) -> list[Written]:
    """The encoder's output (B, T, D) and B prompts of one length -> what is written for each window.

    beam: sequences kept (temperature 0). start_of_text: the place in the prompt of the token that the probability of
    no speech is read after. A text ends with the end token or where the model's positions end.
    """
    cache = model.start(heard)
    tokens = torch.tensor(prompts, device=heard.device)
    hidden = model.read(tokens, cache)  # (B, P, D)
    no_speech = model.logits(hidden[:, start_of_text]).softmax(-1)[:, rules.no_speech].tolist()
    most = model.config.max_target_positions - tokens.shape[1]
    logits = model.logits(hidden[:, -1])
    if beam > 1 and temperature == 0.0:
        texts = _beam(model, cache, logits, rules, beam, most)
    else:
        texts = _one_by_one(model, cache, logits, rules, most, temperature, generator)
    return [Written(*text, silence, temperature) for text, silence in zip(texts, no_speech, strict=True)]


def _one_by_one(
    model: WritingModel[Cache],
    cache: list[Cache],
    logits: Tensor,
    rules: Rules,
    most: int,
    temperature: float,
    generator: torch.Generator | None,
) -> list[tuple[list[int], float]]:
    """The likeliest token each time, or one that is drawn -> tokens and log-probability of each window."""
    windows = list(range(len(logits)))  # of each row
    written: list[list[int]] = [[] for _ in windows]
    scores, finished = [0.0] * len(windows), [False] * len(windows)
    for place in range(most):
        log_probs = rules.log_probs(logits, [written[i] for i in windows])  # (R, V)
        if temperature > 0.0:
            odds = (log_probs / temperature).softmax(-1)
            chosen = odds.cpu().multinomial(1, generator=generator).to(odds.device)  # (R, 1)
        else:
            chosen = log_probs.argmax(-1, keepdim=True)
        gained = log_probs.gather(1, chosen)[:, 0].tolist()
        for window, token, gain in zip(windows, chosen[:, 0].tolist(), gained, strict=True):
            if finished[window]:
                continue
            scores[window] += gain
            finished[window] = token == rules.end
            if not finished[window]:
                written[window].append(token)
        going = [row for row, window in enumerate(windows) if not finished[window]]
        if not going or place == most - 1:
            break
        if len(windows) - len(going) >= FEWEST_LEFT_OUT * len(windows):
            rows = torch.tensor(going, device=chosen.device)
            for layer in cache:
                layer.keep(rows, rows)
            windows, chosen = [windows[row] for row in going], chosen[rows]
        logits = model.logits(model.read(chosen, cache)[:, -1])
    return list(zip(written, scores, strict=True))


def _beam(
    model: WritingModel[Cache], cache: list[Cache], logits: Tensor, rules: Rules, beam: int, most: int
) -> list[tuple[list[int], float]]:
    """The best of `beam` finished sequences by mean log-probability -> its tokens and log-probability, by window."""
    windows = list(range(len(logits)))  # those that go on
    alive: list[list[tuple[list[int], float]]] = [[([], 0.0)] for _ in windows]  # (tokens, score), best first
    done: list[list[tuple[list[int], float]]] = [[] for _ in windows]
    for place in range(most):
        rows_of = [len(alive[window]) for window in windows]
        log_probs = rules.log_probs(logits, [tokens for window in windows for tokens, _ in alive[window]])
        best, ids = log_probs.topk(beam + 1)  # (R, K + 1): one of them may be the end
        gains, choices, row = best.tolist(), ids.tolist(), 0
        going, sources = [], []  # windows and the rows that their sequences grow from
        for number, window in enumerate(windows):
            grown = [
                (score + gain, tokens, token, row + i)
                for i, (tokens, score) in enumerate(alive[window])
                for gain, token in zip(gains[row + i], choices[row + i], strict=True)
            ]
            row += rows_of[number]
            kept: list[tuple[list[int], float, int]] = []
            for score, tokens, token, source in sorted(grown, key=lambda g: -g[0]):
                if token == rules.end:
                    if len(done[window]) < beam:
                        done[window].append((tokens, score))
                elif len(kept) < beam:
                    kept.append(([*tokens, token], score, source))
                if len(kept) == beam:
                    break
            alive[window] = [(tokens, score) for tokens, score, _ in kept]
            if len(done[window]) < beam and kept and kept[0][1] > -math.inf:
                going.append(number)
                sources += [source for _, _, source in kept]
        if not going or place == most - 1:
            break
        # All windows have `beam` rows from the first step on: what they hold is reordered with them.
        is_fewer = len(going) < len(windows)
        clips = torch.tensor(going, device=logits.device) if is_fewer else None
        rows = torch.tensor(sources, device=logits.device)
        for layer in cache:
            layer.keep(rows, clips)
        windows = [windows[number] for number in going]
        last = [[tokens[-1]] for window in windows for tokens, _ in alive[window]]
        logits = model.logits(model.read(torch.tensor(last, device=logits.device), cache)[:, -1])
    best_of = []
    for window in range(len(alive)):
        texts = done[window] + (alive[window] if len(done[window]) < beam else [])
        best_of.append(max(texts, key=lambda text: text[1] / max(1, len(text[0]))))
    return best_of


def detect_languages(model: WritingModel, heard: Tensor, tokenizer: WhisperTokenizer) -> list[str]:
    """The likeliest language of each window (B, T, D), as Whisper's code."""
    start = torch.full((len(heard), 1), tokenizer.sot_id, device=heard.device)
    logits = model.logits(model.read(start, model.start(heard))[:, -1])  # (B, V)
    codes = list(tokenizer.language_ids)
    best = logits[:, [tokenizer.language_ids[code] for code in codes]].argmax(-1).tolist()
    return [codes[i] for i in best]


def most_before(config: WritingConfig) -> int:
    """Tokens that may stand before a text: the other half of the positions is left to it."""
    return config.max_target_positions // 2 - 1


def opening_of(prompt: str, tokenizer: WhisperTokenizer, config: WritingConfig) -> list[int]:
    """The tokens of GenerateOptions.prompt, as openai/whisper's initial prompt. InputError where it is too long."""
    tokens = tokenizer.encode_text(f" {prompt.strip()}") if prompt.strip() else []
    if len(tokens) > most_before(config):
        raise InputError(
            f"a prompt must have at most {most_before(config)} tokens, this one has {len(tokens)}; shorten it"
        )
    return tokens


def write(
    model: WritingModel,
    heard: Tensor,
    tokenizers: Sequence[WhisperTokenizer],
    rules: Rules,
    options: GenerateOptions,
    earlier: Sequence[list[int]] | None = None,
) -> list[Written]:
    """What is written for each window (B, T, D), at the first temperature whose text does not look wrong.

    tokenizers: of each window, with its language. earlier: tokens written before each window; the last of them are
    read after options.prompt. InputError where that is too long.
    """
    opening = opening_of(options.prompt, tokenizers[0], model.config)
    room = most_before(model.config) - len(opening)
    prompts = []
    for tokenizer, tokens in zip(tokenizers, earlier or [[]] * len(tokenizers), strict=True):
        before = opening + tokens[max(0, len(tokens) - room) :]
        prompts.append([tokenizer.prev_id] * bool(before) + before + tokenizer.prompt(options.timestamps))
    written: dict[int, Written] = {}
    generator = torch.Generator().manual_seed(0)  # the same recording gives the same text
    todo = list(range(len(prompts)))
    for temperature in options.temperatures:
        for of_length in _groups(todo, lambda i: len(prompts[i])):
            texts = generate(
                model,
                heard[of_length] if len(of_length) < len(heard) else heard,
                [prompts[i] for i in of_length],
                rules,
                options.beam,
                temperature,
                generator,
                prompts[of_length[0]].index(tokenizers[0].sot_id),
            )
            for i, text in zip(of_length, texts, strict=True):
                written[i] = text
        todo = [i for i in todo if looks_wrong(written[i], tokenizers[i], options)]
        if not todo:
            break
    return [written[i] for i in range(len(prompts))]


def _groups(items: list[int], key: Callable[[int], int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def is_silence(written: Written, options: GenerateOptions) -> bool:
    """Whether there is no speech in the window, as the model says: then its text counts for nothing."""
    return written.no_speech > options.no_speech and written.mean_log_prob < options.log_probability


def looks_wrong(written: Written, tokenizer: WhisperTokenizer, options: GenerateOptions) -> bool:
    """Whether a text repeats itself or is unsure; silence is right."""
    if is_silence(written, options):
        return False
    data = tokenizer.text_of(written.tokens).strip().encode("utf-8")
    repeats = len(data) / len(zlib.compress(data)) > options.compression_ratio
    return repeats or written.mean_log_prob < options.log_probability


def tokenizers_of(model: WritingModel, heard: Tensor, tokenizer: WhisperTokenizer) -> list[WhisperTokenizer]:
    """The tokenizer for each window (B, T, D), with its language: the one that was set, or else what is heard."""
    if tokenizer.language is not None or not tokenizer.is_multilingual:
        return [tokenizer] * len(heard)
    codes = detect_languages(model, heard, tokenizer)
    return [tokenizer.for_language(code, task=tokenizer.task) for code in codes]


@torch.no_grad()
def decode(model: WritingModel, batch: Batch, tokenizer: WhisperTokenizer, options: DecodeOptions) -> list[Hypothesis]:
    """The text of each clip of at most one window; see DecodeOptions. InputError for a search, which needs frames."""
    if options.search is not None:
        raise InputError("a search with a language model needs frame posteriors, this model gives none; leave it out")
    heard = model.hear(batch)
    tokenizers = tokenizers_of(model, heard, tokenizer)
    rules = Rules.of(model, tokenizer, options.generate.timestamps)
    written = write(model, heard, tokenizers, rules, options.generate)
    hypotheses = []
    for i, (text, of_clip) in enumerate(zip(written, tokenizers, strict=True)):
        words = word_times(model, heard[i], text.tokens, of_clip, batch.samples[i]) if options.words else []
        hypotheses.append(Hypothesis(of_clip.decode(text.tokens), text.tokens, text.log_prob, words))
    return hypotheses
