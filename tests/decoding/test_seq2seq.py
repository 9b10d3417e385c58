"""How a model's text is written: greedily, by beams, with timestamps, at temperatures.

Run: pytest tests/decoding/test_seq2seq.py
"""

import dataclasses
import functools
import math
import random

import pytest
import torch
from decoding.random_whisper import LETTERS, TOKENIZER, TURKISH, only_letters, random_whisper, waveforms
from decoding.stub_writer import StubWriter
from transformers import GenerationConfig
from transformers import WhisperForConditionalGeneration as Theirs
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

import w2v
from w2v.answers import DecodeOptions, GenerateOptions
from w2v.decoding.seq2seq import Rules, Written, detect_languages, generate, is_silence, looks_wrong, write
from w2v.errors import InputError
from w2v.models.whisper_config import Generation

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
        if TOKENIZER.sot_id not in tokens:  # in earlier text
            return logits
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


def beams_by_hand(log_probs_after, width: int) -> tuple[list[int], float]:
    """openai/whisper's BeamSearchDecoder and MaximumLikelihoodRanker, one sequence at a time.

    log_probs_after: tokens of the text -> (V,)
    """
    alive, done = [([], 0.0)], []
    for _ in range(40 - len(TURKISH.prompt())):
        grown = []
        for tokens, score in alive:
            log_probs, ids = log_probs_after(tokens).topk(width + 1)
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
        after = functools.partial(lambda of, tokens: drawn(of, TURKISH.prompt() + tokens).log_softmax(-1), window)
        tokens, score = beams_by_hand(after, width)
        assert text.tokens == tokens
        assert text.log_prob == pytest.approx(score, abs=1e-4)


def stamped(window: int, tokens: list[int]) -> torch.Tensor:
    """Logits with some likely timestamps; no two tokens are equally likely."""
    draw = random.Random(f"stamps {window} {tokens}")
    logits = drawn(window, tokens) - torch.arange(SIZE) * 1e-3
    for step in (0, 7, 20, 33, 50, 60):
        logits[STAMP + step] = draw.gauss(0, 2)
    return logits


def test_beams_keep_the_rules_of_timestamps():
    model, prompt = StubWriter(stamped, SIZE, positions=39), TURKISH.prompt(timestamps=True)
    rules = Rules.of(model, TOKENIZER, timestamps=True)
    for window, text in enumerate(generate(model, model.hear([[0.0]] * 4), [prompt] * 4, rules, beam=3)):

        def after(tokens: list[int], window=window) -> torch.Tensor:
            logits = stamped(window, prompt + tokens)
            return logits.masked_fill(~allowed_by_hand(tokens, logits, 50), -math.inf).log_softmax(-1)

        tokens, score = beams_by_hand(after, 3)
        assert text.tokens == tokens and tokens[0] >= STAMP
        assert text.log_prob == pytest.approx(score, abs=1e-4)


# --- a real model: its cache, and windows that leave the batch


SUPPRESSED = {"suppress_tokens": only_letters(), "begin_suppress_tokens": (LETTERS[3], END)}


def written(model, inputs: torch.Tensor, **options) -> list[Written]:
    with torch.no_grad():
        heard = model.model.encoder(inputs)
        return generate(model, heard, [TURKISH.prompt()] * len(heard), Rules.of(model, TURKISH), **options)


def test_greedy_texts_are_transformers(tmp_path):
    model = random_whisper(**SUPPRESSED)
    model.save_pretrained(tmp_path)
    inputs = model.config.collate(waveforms(12)).inputs
    theirs = Theirs.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = theirs.generate(inputs, language="tr", task="transcribe").tolist()
    found = [text.tokens for text in written(model, inputs)]
    assert found == [row[: row.index(END)] if END in row else row for row in ids]
    assert len(set(map(len, found))) > 3 and all(set(tokens) <= set(LETTERS) for tokens in found)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_text_does_not_depend_on_the_windows_beside_it(beam):
    model = random_whisper(**SUPPRESSED)
    inputs = model.config.collate(waveforms(12)).inputs
    together = written(model, inputs, beam=beam)
    assert len({len(text.tokens) for text in together}) > 3, "some leave the batch before others"
    for row, text in enumerate(together):
        [alone] = written(model, inputs[row : row + 1], beam=beam)
        assert text.tokens == alone.tokens
        assert text.log_prob == pytest.approx(alone.log_prob, abs=1e-3)


@torch.no_grad()
def test_beams_of_a_cache_are_those_of_whole_texts():
    model = random_whisper(**SUPPRESSED)
    inputs = model.config.collate(waveforms(6)).inputs
    heard, width = model.model.encoder(inputs), 3
    for window, text in enumerate(written(model, inputs, beam=width)):

        def after(tokens: list[int], heard=heard[window : window + 1]) -> torch.Tensor:
            read = torch.tensor([[*TURKISH.prompt(), *tokens]])
            logits = model.model.decoder.logits(model.model.decoder(read, heard))[0, -1]
            never = [*SUPPRESSED["suppress_tokens"], *(SUPPRESSED["begin_suppress_tokens"] if not tokens else ())]
            logits[never] = -math.inf
            return logits.log_softmax(-1)

        tokens, score = beams_by_hand(after, width)
        assert text.tokens == tokens
        assert text.log_prob == pytest.approx(score, abs=1e-3)


def test_a_model_without_numbers_and_one_that_may_write_nothing_end():
    broken = random_whisper()
    broken.model.decoder.layer_norm.weight.data.fill_(math.nan)
    mute = random_whisper(suppress_tokens=tuple(range(SIZE)))
    options = GenerateOptions(temperatures=(0.0, 1.0), log_probability=1.0)
    for model in (broken, mute):
        heard = model.hear(model.config.collate(waveforms(2))).detach()
        texts = write(model, heard, [TURKISH] * 2, Rules.of(model, TURKISH), options)
        texts += write(model, heard, [TURKISH] * 2, Rules.of(model, TURKISH), GenerateOptions(beam=3))
        assert [text.tokens for text in texts] == [[]] * 4


# --- rules


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


def test_timestamps_of_many_rows_are_transformers():
    model = StubWriter(drawn, SIZE, generation=Generation(max_initial_timestamp_index=7))
    rules = Rules.of(model, TOKENIZER, timestamps=True)
    settings = GenerationConfig(eos_token_id=END, bos_token_id=END)
    settings.no_timestamps_token_id, settings.max_initial_timestamp_index = TOKENIZER.no_timestamps_id, 7
    theirs = WhisperTimeStampLogitsProcessor(settings, begin_index=1)
    draw = random.Random(0)
    for length in range(9):
        kinds = [0, 65, 66, END - 1, STAMP, STAMP + 1, STAMP + 2, STAMP + 1500]
        rows = [draw.choices(kinds, k=length) for _ in range(30)]
        logits = torch.randn(len(rows), SIZE, generator=torch.Generator().manual_seed(length)) * 3
        logits[:, :END] += torch.tensor([draw.choice([-9.0, 0.0, 9.0]) for _ in rows])[:, None]
        wanted = theirs(torch.tensor([[0, *row] for row in rows]), logits)
        possible = wanted.isfinite().any(-1)
        found = rules.log_probs(logits, rows)
        torch.testing.assert_close(found[possible], wanted[possible].log_softmax(-1))


def test_the_probability_of_no_speech_is_read_after_the_start():
    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.zeros(SIZE)
        logits[TOKENIZER.no_speech_id] = (5.0 + window) * (tokens[-1] == TOKENIZER.sot_id)
        logits[END] = 20.0 * (tokens[-1] == TURKISH.prompt()[-1])
        return logits

    wanted = [math.exp(5.0 + i) / (math.exp(5.0 + i) + SIZE - 1) for i in range(2)]
    for earlier in (None, [[65, 66], [67]], [[65], []]):
        model = StubWriter(rule, SIZE)
        rules = Rules.of(model, TOKENIZER)
        texts = write(model, model.hear([[0.0]] * 2), [TURKISH] * 2, rules, GenerateOptions(), earlier)
        assert [text.no_speech for text in texts] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_are_drawn_as_likely_as_the_temperature_makes_them(temperature):
    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.full((SIZE,), -99.0)
        logits[[65, 66, END]] = torch.tensor([0.75, 0.25, 1.0]).log() if tokens == TURKISH.prompt() else -99.0
        logits[END] = -99.0 if tokens == TURKISH.prompt() else 0.0
        return logits

    model, count = StubWriter(rule, SIZE), 1000
    texts = run(model, count, temperature=temperature, generator=torch.Generator().manual_seed(0))
    same = run(model, count, temperature=temperature, generator=torch.Generator().manual_seed(0), beam=3)
    assert [text.tokens for text in same] == [text.tokens for text in texts], "no beam above 0"
    share = sum(text.tokens == [65] for text in texts) / count
    assert share == pytest.approx({1.0: 0.75, 0.5: 0.9}[temperature], abs=0.04)
    assert {text.temperature for text in texts} == {temperature}
    assert texts[0].log_prob == pytest.approx(math.log(0.75 if texts[0].tokens == [65] else 0.25)), "of the model"


def test_the_language_is_the_likeliest_of_the_language_tokens():
    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.zeros(SIZE)
        logits[65] = 9.0
        logits[TOKENIZER.language_ids["ka" if window else "tr"]] = 5.0
        return logits

    model = StubWriter(rule, SIZE)
    assert detect_languages(model, model.hear([[0.0], [0.0]]), TOKENIZER) == ["tr", "ka"]


def test_each_clip_is_prompted_with_the_language_that_is_heard():
    prompts = []

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.zeros(SIZE)
        logits[TOKENIZER.language_ids["ka" if window else "tr"]] = 5.0 * (len(tokens) == 1)
        logits[END] = 20.0 * (len(tokens) == 4)
        prompts.append((window, list(tokens)))
        return logits

    model = StubWriter(rule, SIZE)
    batch = [[0.0], [0.0]]
    w2v.decoding.seq2seq.decode(model, batch, TOKENIZER, DecodeOptions())
    for window, code in enumerate(["tr", "ka"]):
        assert (window, TOKENIZER.for_language(code).prompt()) in prompts


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


def test_only_what_looks_wrong_is_written_again():
    starts = []

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        if tokens == TURKISH.prompt():
            starts.append(window)
        if window == 1:
            return repeats_when_sure(window, tokens)
        return torch.eye(SIZE)[END if len(tokens) > 7 else 65 + len(tokens)] * 20

    model = StubWriter(rule, SIZE, positions=60)
    options = GenerateOptions(temperatures=(0.0, 1.0), log_probability=-99.0)
    texts = write(model, model.hear([[0.0]] * 3), [TURKISH] * 3, Rules.of(model, TOKENIZER), options)
    assert [text.temperature for text in texts] == [0.0, 1.0, 0.0]
    assert starts == [0, 1, 2, 1]
    assert [text.tokens for text in texts[::2]] == [[69, 70, 71, 72]] * 2


def test_silence_is_said_to_be_none_where_the_text_is_sure():
    good, options = TOKENIZER.encode_text("iyi"), GenerateOptions()
    assert Written(good, -4.0, 0.0, 0.0).mean_log_prob == -1.0, "the end counts"
    assert is_silence(Written(good, -5.0, 0.9, 0.0), options)
    assert not is_silence(Written(good, -3.0, 0.9, 0.0), options)
    assert not is_silence(Written(good, -5.0, 0.5, 0.0), options)


def test_windows_with_and_without_earlier_text_are_written_together():
    texts = ["abc", "de", "f"]
    model = StubWriter(spelled(texts), SIZE)
    earlier = [[], TOKENIZER.encode_text("xyz"), []]
    rules = Rules.of(model, TOKENIZER)
    found = write(model, model.hear([[0.0]] * 3), [TURKISH] * 3, rules, GenerateOptions(), earlier)
    assert [TOKENIZER.decode(each.tokens) for each in found] == texts


def test_what_looks_wrong():
    options, good = GenerateOptions(), TOKENIZER.encode_text("merhaba dünya")
    assert not looks_wrong(Written(good, -1.0, 0.0, 0.0), TOKENIZER, options)
    assert looks_wrong(Written(good, -50.0, 0.0, 0.0), TOKENIZER, options), "unsure"
    assert looks_wrong(Written(TOKENIZER.encode_text("ha" * 60), -1.0, 0.0, 0.0), TOKENIZER, options), "repeats"
    assert not looks_wrong(Written(good, -50.0, 0.9, 0.0), TOKENIZER, options), "silence"
    assert not looks_wrong(Written(TOKENIZER.encode_text(" " * 200), -1.0, 0.0, 0.0), TOKENIZER, options), "no text"


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])  # -inf: no token may come
@pytest.mark.parametrize("timestamps", [False, True])
def test_a_text_ends_in_the_middle_where_the_numbers_end(broken, timestamps):
    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = drawn(window, tokens)
        return logits + broken if window == 0 or len(tokens) > 6 else logits

    for options in (GenerateOptions(), GenerateOptions(beam=2), GenerateOptions(temperatures=(0.0, 1.0))):
        options = dataclasses.replace(options, timestamps=timestamps)
        model = StubWriter(rule, SIZE)
        rules = Rules.of(model, TOKENIZER, timestamps)
        first, second = write(model, model.hear([[0.0]] * 2), [TURKISH] * 2, rules, options)
        assert first.tokens == [] and first.log_prob == 0.0
        assert len(second.tokens) <= 7 - len(TURKISH.prompt(timestamps)) and math.isfinite(second.log_prob)


def test_earlier_text_stands_before_the_prompt_and_is_cut():
    seen = []

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        seen.append(list(tokens))
        return torch.eye(SIZE)[END] * 20

    model = StubWriter(rule, SIZE, positions=40)
    write(model, model.hear([[0.0]]), [TURKISH], Rules.of(model, TOKENIZER), GenerateOptions(), [list(range(50))])
    prompt = max(seen, key=len)
    assert prompt == [TOKENIZER.prev_id, *range(31, 50), *TURKISH.prompt()], "40 // 2 - 1 tokens of it"


@pytest.mark.parametrize("earlier", [None, [[]], [[7, 8]], [list(range(50))]])
@pytest.mark.parametrize("prompt", ["Ayşe", "<|endoftext|>", "a" * 18])
def test_a_prompt_stands_before_earlier_text_and_is_whole(prompt, earlier):
    """A special token in it is letters."""
    seen = []

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        seen.append(list(tokens))
        return torch.eye(SIZE)[END] * 20

    model, opening = StubWriter(rule, SIZE, positions=40), TOKENIZER.encode_text(" " + prompt)
    options = GenerateOptions(prompt=f"  {prompt}\n")
    write(model, model.hear([[0.0]]), [TURKISH], Rules.of(model, TOKENIZER), options, earlier)
    before = [*opening, *(earlier or [[]])[0]] if len(opening) + 2 < 19 else opening
    if earlier and len(earlier[0]) == 50:
        before = [*opening, *range(50 - (19 - len(opening)), 50)]
    assert max(seen, key=len) == [TOKENIZER.prev_id, *before, *TURKISH.prompt()]
    assert END not in max(seen, key=len)


def test_a_prompt_that_leaves_no_room_is_refused():
    model = random_whisper()
    heard = model.model.encoder(model.config.collate(waveforms(1)).inputs)
    with pytest.raises(InputError, match="a prompt must have at most 19 tokens, this one has 20; shorten it"):
        write(model, heard, [TURKISH], Rules.of(model, TURKISH), GenerateOptions(prompt="a" * 19))


def test_texts_after_a_prompt_are_transformers(tmp_path):
    model = random_whisper(**SUPPRESSED)
    model.save_pretrained(tmp_path)
    inputs = model.config.collate(waveforms(12)).inputs
    theirs = Theirs.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.tensor([TOKENIZER.prev_id, *TOKENIZER.encode_text(" ABCA")])
    rows = theirs.generate(inputs, language="tr", task="transcribe", prompt_ids=ids, max_new_tokens=30).tolist()
    with torch.no_grad():
        options = GenerateOptions(prompt="ABCA")
        found = write(model, model.model.encoder(inputs), [TURKISH] * 12, Rules.of(model, TURKISH), options)
        plain = write(model, model.model.encoder(inputs), [TURKISH] * 12, Rules.of(model, TURKISH), GenerateOptions())
    assert [text.tokens for text in found] == [row[: row.index(END)] if END in row else row for row in rows]
    assert found != plain


def test_a_search_needs_frames():
    with pytest.raises(InputError, match="needs frame posteriors"):
        w2v.decoding.seq2seq.decode(None, None, TOKENIZER, DecodeOptions(search=lambda emissions, words: []))


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["", "ETKİNLİĞE ON İKİ ÜLKEDEN"])
def test_real_weights_write_transformers_text(whisper_folder, clips, prompt):
    directory = whisper_folder("base")
    asr = w2v.load(directory, target_lang="tr")
    batch = asr.model.config.collate([w2v.read_audio(clip) for clip in clips[:8]])
    found = asr.model.decode(batch, asr.tokenizer, DecodeOptions(generate=GenerateOptions(prompt=prompt)))
    theirs = Theirs.from_pretrained(directory, dtype=torch.float32).eval()
    read = torch.tensor([asr.tokenizer.prev_id, *asr.tokenizer.encode_text(" " + prompt)]) if prompt else None
    ids = theirs.generate(batch.inputs, language="tr", task="transcribe", prompt_ids=read)
    assert [each.text for each in found] == [asr.tokenizer.decode(row) for row in ids.tolist()]
