"""How a model's text is written: greedily, by beams, with timestamps, at temperatures.

Run: pytest tests/decoding/test_seq2seq.py
"""

import math
import random

import pytest
import torch
from decoding.stub_writer import StubWriter
from transformers import WhisperForConditionalGeneration as Theirs

import w2v
from w2v.answers import DecodeOptions, GenerateOptions
from w2v.decoding.seq2seq import Rules, Written, detect_languages, generate, looks_wrong, write
from w2v.errors import InputError
from w2v.models.whisper_config import Generation
from w2v.text.whisper_tokenizer import WhisperTokenizer

TOKENIZER = WhisperTokenizer.from_texts(["a"])
TURKISH = TOKENIZER.for_language("tr")
SIZE, END, STAMP = len(TOKENIZER), TOKENIZER.eos_id, TOKENIZER.timestamp_begin


def drawn(window: int, tokens: list[int]) -> torch.Tensor:
    """Logits that depend on every token; a few letters are likely, and the end."""
    draw = random.Random(f"{window} {tokens}")
    logits = torch.full((SIZE,), -20.0)
    for token in [*range(65, 71), END]:
        logits[token] = draw.gauss(0, 2) + (len(tokens) > 8) * (token == END)
    return logits


def spelled(texts: list[str]):
    """A rule that writes a text for each window, and then the end."""

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.full((SIZE,), -10.0)
        start = len(tokens) - 1 - tokens[::-1].index(TOKENIZER.sot_id)
        written = len(tokens) - start - len(TURKISH.prompt())
        wanted = [*TOKENIZER.encode_text(texts[window]), END]
        logits[wanted[max(0, min(written, len(wanted) - 1))]] = 10.0
        return logits

    return rule


def run(model, windows: int, **options) -> list[Written]:
    rules = Rules.of(model, TOKENIZER)
    heard = model.hear([[0.0]] * windows)
    return generate(model, heard, [TURKISH.prompt()] * windows, rules, **options)


def test_texts_of_unequal_length_end_each_for_itself():
    texts = ["abc", "a", "abcdefgh", "ab", "abcde"]
    model = StubWriter(spelled(texts), SIZE)
    found = run(model, 5)
    assert [TOKENIZER.decode(each.tokens) for each in found] == texts
    assert model.reads == 1 + 8, "until the longest has ended"
    alone = [run(StubWriter(drawn, SIZE), 3)[i] for i in range(3)]
    together = run(StubWriter(drawn, SIZE), 3)
    assert [a.tokens for a in alone] == [b.tokens for b in together]


def test_greedy_takes_the_likeliest_token_and_sums_its_log_probabilities():
    for window, found in enumerate(run(StubWriter(drawn, SIZE), 4)):
        tokens, total = list(TURKISH.prompt()), 0.0
        while True:
            log_probs = drawn(window, tokens).log_softmax(-1)
            total += log_probs.max().item()
            tokens.append(int(log_probs.argmax()))
            if tokens[-1] == END or len(tokens) == 40:
                break
        assert found.tokens == [t for t in tokens[len(TURKISH.prompt()) :] if t != END]
        assert found.log_prob == pytest.approx(total, abs=1e-4)


def beams_by_hand(window: int, width: int) -> tuple[list[int], float]:
    """openai/whisper's BeamSearchDecoder and MaximumLikelihoodRanker, one sequence at a time."""
    prompt = list(TURKISH.prompt())
    alive, done = [([], 0.0)], []
    for _ in range(40 - len(prompt)):
        grown = []
        for tokens, score in alive:
            log_probs, ids = drawn(window, prompt + tokens).log_softmax(-1).topk(width + 1)
            grown += [([*tokens, i], score + gain) for gain, i in zip(log_probs.tolist(), ids.tolist(), strict=True)]
        alive = []
        for tokens, score in sorted(grown, key=lambda each: -each[1]):
            if tokens[-1] == END:
                if len(done) < width:
                    done.append((tokens[:-1], score))
            else:
                alive.append((tokens, score))
            if len(alive) == width:
                break
        if len(done) == width:
            break
    texts = done + (alive if len(done) < width else [])
    return max(texts, key=lambda text: text[1] / max(1, len(text[0])))


@pytest.mark.parametrize("width", [2, 3, 5])
def test_beams_are_openais(width):
    found = run(StubWriter(drawn, SIZE), 6, beam=width)
    for window, text in enumerate(found):
        tokens, score = beams_by_hand(window, width)
        assert text.tokens == tokens
        assert text.log_prob == pytest.approx(score, abs=1e-4)


def test_suppressed_tokens_never_come_and_some_not_first():
    rule = spelled(["aab", "ba"])
    a, b = TOKENIZER.encode_text("ab")
    model = StubWriter(rule, SIZE, generation=Generation(suppress_tokens=(b, -1), begin_suppress_tokens=(a,)))
    for found in run(model, 2):
        assert b not in found.tokens and found.tokens[:1] != [a]


def test_a_text_ends_where_the_positions_end():
    endless = StubWriter(lambda window, tokens: torch.eye(SIZE)[65] * 20, SIZE, positions=12)
    for beam in (1, 3):
        [found] = run(endless, 1, beam=beam)
        assert len(found.tokens) == 12 - len(TURKISH.prompt())


def allowed_by_hand(tokens: list[int], log_probs: torch.Tensor, latest: int) -> torch.Tensor:
    """WHISPER.md's rules of timestamps, as sentences: which tokens may come next."""
    may = torch.ones(SIZE, dtype=torch.bool)
    may[TOKENIZER.no_timestamps_id] = False
    is_stamp = torch.arange(SIZE) >= STAMP
    if not tokens:
        return is_stamp & (torch.arange(SIZE) <= STAMP + latest)
    last, before = tokens[-1] >= STAMP, len(tokens) < 2 or tokens[-2] >= STAMP
    if last and before:
        may &= ~is_stamp
    elif last:
        may[:END] = False
    stamps = [t for t in tokens if t >= STAMP]
    if stamps:
        closes = last and not before
        may &= ~is_stamp | (torch.arange(SIZE) >= stamps[-1] + (0 if closes else 1))
    left = log_probs.masked_fill(~may, -math.inf).log_softmax(-1)
    if left[STAMP:].logsumexp(0) > left[:STAMP].max():
        may &= is_stamp
    return may


def test_timestamps_come_in_pairs_and_never_fall():
    model = StubWriter(drawn, SIZE)
    rules = Rules.of(model, TOKENIZER, timestamps=True)
    draw = random.Random(0)
    kinds = [[], [STAMP], [STAMP + 3, 65], [STAMP + 3, 65, STAMP + 9], [STAMP + 3, 65, STAMP + 9, STAMP + 9],
             [STAMP + 3, 65, STAMP + 9, STAMP + 12, 70], [65, 66]]  # fmt: skip
    for _ in range(40):
        logits = torch.tensor([draw.gauss(0, 3) for _ in range(SIZE)])
        logits[draw.randrange(SIZE)] += draw.choice([0.0, 15.0])
        for tokens in kinds:
            found = rules.log_probs(logits[None].clone(), [tokens])[0].isfinite()
            assert torch.equal(found, allowed_by_hand(tokens, logits, rules.latest_start)), tokens


def test_the_language_is_the_likeliest_of_the_language_tokens():
    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.zeros(SIZE)
        logits[65] = 9.0
        logits[TOKENIZER.language_ids["ka" if window else "tr"]] = 5.0
        return logits

    model = StubWriter(rule, SIZE)
    assert detect_languages(model, model.hear([[0.0], [0.0]]), TOKENIZER) == ["tr", "ka"]


def repeats_when_sure(window: int, tokens: list[int]) -> torch.Tensor:
    """The likeliest text repeats one letter; others are nearly as likely."""
    logits = torch.full((SIZE,), -30.0)
    logits[65:91] = 0.0
    logits[65] = 0.1
    return logits


def test_a_text_that_repeats_itself_is_drawn_instead_and_always_the_same():
    options = GenerateOptions(temperatures=(0.0, 1.0), log_probability=-99.0)
    texts = []
    for _ in range(2):
        model = StubWriter(repeats_when_sure, SIZE, positions=60)
        heard = model.hear([[0.0]])
        texts += write(model, heard, [TURKISH], Rules.of(model, TOKENIZER), options)
    assert texts[0].temperature == 1.0 and len(set(texts[0].tokens)) > 5
    assert texts[0].tokens == texts[1].tokens
    one = write(model, heard, [TURKISH], Rules.of(model, TOKENIZER), GenerateOptions())[0]
    assert set(one.tokens) == {65}, "measured as it is"


def test_what_looks_wrong():
    options, good = GenerateOptions(), TOKENIZER.encode_text("merhaba dünya")
    assert not looks_wrong(Written(good, -1.0, 0.0, 0.0), TOKENIZER, options)
    assert looks_wrong(Written(good, -50.0, 0.0, 0.0), TOKENIZER, options), "unsure"
    assert looks_wrong(Written(TOKENIZER.encode_text("ha" * 60), -1.0, 0.0, 0.0), TOKENIZER, options), "repeats"
    assert not looks_wrong(Written(good, -50.0, 0.9, 0.0), TOKENIZER, options), "silence"


def test_earlier_text_stands_before_the_prompt_and_is_cut():
    seen = []

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        seen.append(list(tokens))
        return torch.eye(SIZE)[END] * 20

    model = StubWriter(rule, SIZE, positions=40)
    write(model, model.hear([[0.0]]), [TURKISH], Rules.of(model, TOKENIZER), GenerateOptions(), [list(range(50))])
    prompt = max(seen, key=len)
    assert prompt == [TOKENIZER.prev_id, *range(31, 50), *TURKISH.prompt()], "40 // 2 - 1 tokens of it"


def test_a_search_needs_frames():
    with pytest.raises(InputError, match="needs frame posteriors"):
        w2v.decoding.seq2seq.decode(None, None, TOKENIZER, DecodeOptions(search=lambda emissions, words: []))


def test_real_weights_write_transformers_text(whisper_folder, clips):
    directory = whisper_folder("base")
    asr = w2v.load(directory, target_lang="tr")
    batch = asr.model.config.collate([w2v.read_audio(clip) for clip in clips[:6]])
    found = asr.model.decode(batch, asr.tokenizer, DecodeOptions())
    theirs = Theirs.from_pretrained(directory, dtype=torch.float32).eval()
    ids = theirs.generate(batch.inputs, language="tr", task="transcribe")
    assert [each.text for each in found] == [asr.tokenizer.decode(row) for row in ids.tolist()]
