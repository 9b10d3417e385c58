"""Beam search: the scores of an exhaustive search, the known sentence, what pruning and batching may change."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from w2v.answers import Emissions
from w2v.decoding import stretches
from w2v.decoding.beam import BeamSearch
from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.decoding.fusion import CharacterFusion, WordFusion
from w2v.decoding.language_model import LanguageModel, fusion_of
from w2v.decoding.ngram import LN10, build
from w2v.decoding.steps import likely_frames
from w2v.errors import InputError
from w2v.text.tokenizer import CharTokenizer

FIXTURES = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures"
ALL = {"beam": 10_000, "best": 10_000, "token_min": -1e9, "prune": -1e9}  # no pruning
ALPHA, BETA, UNKNOWN = 0.7, 1.1, -3.0


def tokenizer_of(tokens, **settings):
    return CharTokenizer({token: i for i, token in enumerate(tokens)}, unk=None, **settings)


TOKENIZER = tokenizer_of(["|", "a", "b", "[PAD]"])


def random_emissions(clips, frames, size=4, seed=0, spread=2.0):
    logits = torch.randn(clips, frames, size, generator=torch.Generator().manual_seed(seed)) * spread
    return Emissions(logits.log_softmax(-1), torch.full((clips,), frames), 0.02)


def exhaustive(log_probs, tokenizer):
    """The log-sum over all paths of each text. What stands for no text counts as a blank."""
    totals: dict[str, float] = {}
    silent = {tokenizer.blank_id} | {i for i, t in enumerate(tokenizer.tokens) if t.startswith("<")}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        heard = [token if token not in silent else None for token in path]
        labels = [label for label, _ in itertools.groupby(heard) if label is not None]
        text = " ".join(tokenizer.decode(labels, group_tokens=False).split())
        score = float(sum(log_probs[t, token] for t, token in enumerate(path)))
        totals[text] = float(np.logaddexp(totals.get(text, -np.inf), score))
    return totals


def bigram(words, pairs):
    size = len(words)
    unigrams = np.linspace(-0.6, -2.0, size)
    backoffs = np.linspace(-0.1, -0.4, size)
    grams = [np.arange(size)[:, None], np.array(pairs)]
    return build(words, grams, [unigrams, np.linspace(-0.1, -0.9, len(pairs))], [backoffs, np.zeros(len(pairs))])


WORDS = bigram(["<unk>", "<s>", "</s>", "a", "ab", "ba"], [[1, 3], [3, 4], [4, 2], [4, 3], [5, 5]])
LETTERS = bigram(["<unk>", "<s>", "</s>", "a", "b", "|"], [[1, 3], [3, 4], [4, 5], [5, 3], [4, 2]])


def word_score(text):
    words = text.split()
    log10 = WORDS.score([words])[0] + UNKNOWN * sum(word not in ("a", "ab", "ba") for word in words)
    return ALPHA * LN10 * log10 + BETA * len(words)


def letter_score(text):
    letters = list(text.replace(" ", "|"))
    return ALPHA * LN10 * LETTERS.score([letters])[0] + 0.3 * len(letters)


FUSIONS = {
    "none": (lambda: None, lambda text: 0.0),
    "words": (lambda: WordFusion(TOKENIZER, WORDS, ALPHA, BETA, UNKNOWN), word_score),
    "letters": (lambda: CharacterFusion(TOKENIZER, LETTERS, ALPHA, 0.3), letter_score),
}


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("kind", FUSIONS)
def test_every_text_has_the_score_of_an_exhaustive_search(kind, frames):
    make, score = FUSIONS[kind]
    emissions = random_emissions(3, frames, seed=frames)
    for row, found in zip(emissions.log_probs, BeamSearch(TOKENIZER, make(), **ALL)(emissions), strict=True):
        expected = {text: total + score(text) for text, total in exhaustive(row.double(), TOKENIZER).items()}
        assert {hypothesis.text: hypothesis.score for hypothesis in found} == pytest.approx(expected, abs=1e-4)
        scores = [hypothesis.score for hypothesis in found]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("pairings", "choices"), [(0, 8.0), (1, 8.0), (3, 8.0), (1, 1.0)])
@pytest.mark.parametrize("kind", FUSIONS)
def test_stretches_give_every_text_its_score(kind, pairings, choices, monkeypatch):
    """Cuts at doubled letters and spaces among them. With one choice, a step is a stretch of some clips, not of all."""
    monkeypatch.setattr(stretches, "PAIRINGS", pairings)
    monkeypatch.setattr(stretches, "CHOICES", choices)
    make, score = FUSIONS[kind]
    generator = torch.Generator().manual_seed(2)
    is_possible = torch.rand(20, 5, 4, generator=generator) < 0.2
    is_possible.scatter_(2, torch.randint(4, (20, 5, 1), generator=generator), True)
    random = random_emissions(20, 5, seed=2).log_probs
    emissions = Emissions(random.masked_fill(~is_possible, float("-inf")), torch.full((20,), 5), 0.02)
    search = BeamSearch(TOKENIZER, make(), **ALL)
    for row, found in zip(emissions.log_probs, search(emissions), strict=True):
        totals = {text: total for text, total in exhaustive(row.double(), TOKENIZER).items() if np.isfinite(total)}
        expected = {text: total + score(text) for text, total in totals.items()}
        assert {hypothesis.text: hypothesis.score for hypothesis in found} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", FUSIONS)
def test_stretches_change_no_text(kind, monkeypatch):
    logits, tokenizer = libri()
    noise = -torch.rand(6, *logits.shape, generator=torch.Generator().manual_seed(0)).log().neg().log()
    emissions = Emissions((logits + noise).log_softmax(-1), torch.arange(len(logits), len(logits) - 60, -10), 0.02)
    words = bigram(["<unk>", "<s>", "</s>", "i", "have", "a", "good"], [[1, 3], [3, 4], [4, 5], [5, 6]])
    letters = bigram(["<unk>", "<s>", "</s>", "a", "e", "|"], [[1, 3], [3, 4], [4, 5], [5, 3], [4, 2]])
    fusions = {"none": None, "words": WordFusion(tokenizer, words), "letters": CharacterFusion(tokenizer, letters)}
    search = BeamSearch(tokenizer, fusions[kind], prune=-40.0)

    def searched():
        frames = likely_frames(emissions.log_probs, emissions.lengths, search._silent, search.token_min)
        return search(emissions), max(search._steps(frames).counts)

    found, few = searched()
    monkeypatch.setattr(stretches, "CHOICES", -1.0)  # no stretch has fewer
    expected, many = searched()
    assert few < many / 3
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[0].text == theirs[0].text
        assert theirs[0].score - 1e-9 <= ours[0].score < theirs[0].score + 1e-3  # fewer steps prune


@pytest.mark.parametrize(("choices", "tail", "pairings"), [(7.0, 16, 2), (2.0, 1, 3), (0.0, 16, 1)])
@pytest.mark.parametrize("kind", FUSIONS)
def test_sure_frames_between_unsure_ones_change_no_text(kind, choices, tail, pairings, monkeypatch):
    """Frames with one possible label, blanks among them, make runs of labels, doubled ones and doubled spaces."""
    generator = torch.Generator().manual_seed(3)
    is_possible = torch.rand(16, 40, 4, generator=generator) < 0.6
    is_possible &= torch.rand(16, 40, 1, generator=generator) < 0.2
    is_possible.scatter_(2, torch.randint(4, (16, 40, 1), generator=generator), True)
    random = random_emissions(16, 40, seed=3).log_probs
    emissions = Emissions(random.masked_fill(~is_possible, float("-inf")), torch.arange(40, 24, -1), 0.02)
    search = BeamSearch(TOKENIZER, FUSIONS[kind][0](), **ALL)
    monkeypatch.setattr(stretches, "CHOICES", -1.0)  # no stretch has fewer
    expected = search(emissions)
    monkeypatch.setattr(stretches, "CHOICES", choices)
    monkeypatch.setattr(stretches, "TAIL", tail)
    monkeypatch.setattr(stretches, "PAIRINGS", pairings)
    for ours, theirs in zip(search(emissions), expected, strict=True):
        assert [each.text for each in ours] == [each.text for each in theirs]
        assert [each.score for each in ours] == pytest.approx([each.score for each in theirs], abs=1e-6)


def test_a_long_sure_clip_is_pieces_of_bounded_length():
    labels = torch.tensor([1, 2] * 5000)
    log_probs = torch.full((1, len(labels), 4), float("-inf")).scatter_(2, labels[None, :, None], 0.0)
    search = BeamSearch(TOKENIZER)
    steps = search._steps(likely_frames(log_probs, torch.tensor([len(labels)]), search._silent, search.token_min))
    assert steps.pieces.labels.shape[1] == 2**stretches.PAIRINGS * (1 + stretches.TAIL)
    found = search(Emissions(log_probs, torch.tensor([len(labels)]), 0.02))
    assert found[0][0].tokens == labels.tolist() and found[0][0].score == 0.0


def test_a_clip_of_spaces_alone_has_no_text():
    log_probs = torch.full((1, 6, 4), float("-inf"))
    log_probs[..., 0] = 0.0
    for kind in FUSIONS:
        (found,) = BeamSearch(TOKENIZER, FUSIONS[kind][0]())(Emissions(log_probs, torch.tensor([6]), 0.02))
        assert found[0].text == "" and found[0].tokens == []


def test_tokens_without_text_count_as_blanks():
    tokenizer = tokenizer_of(["<s>", "a", "|", "[PAD]"])
    emissions = random_emissions(2, 4, seed=7)
    for row, found in zip(emissions.log_probs, BeamSearch(tokenizer, **ALL)(emissions), strict=True):
        expected = exhaustive(row.double(), tokenizer)
        assert {hypothesis.text: hypothesis.score for hypothesis in found} == pytest.approx(expected, abs=1e-4)


def libri():
    path = FIXTURES / "pyctcdecode" / "libri_logits.json"
    if not path.is_file():
        pytest.skip("needs the fixtures")
    logits = torch.tensor(json.loads(path.read_text()), dtype=torch.float32)
    tokens = ["|", *map(chr, range(ord("a"), ord("z") + 1)), "'", "[PAD]"]
    return logits, tokenizer_of(tokens)


def test_the_sentence_of_pyctcdecodes_test_is_found():
    logits, tokenizer = libri()
    emissions = Emissions(logits.log_softmax(-1)[None], torch.tensor([len(logits)]), 0.02)
    best = BeamSearch(tokenizer)(emissions, words=True)[0][0]
    assert best.text == (
        "i have a good deal of will you remember and what i have set my mind upon no doubt i shall some day achieve"
    )
    assert [word.text for word in best.words] == best.text.split()
    assert all(a.start < a.end <= b.start for a, b in itertools.pairwise(best.words))


def noisy(clips, frames=120):
    logits, tokenizer = libri()
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in range(frames, frames - clips, -1):
        uniform = torch.rand(length, logits.shape[1], generator=generator, dtype=torch.float64)
        rows.append((logits[:length] / 4 - (-uniform.log()).log()).log_softmax(-1).float())
    lengths = torch.tensor([len(row) for row in rows])
    return Emissions(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, 0.02), tokenizer


@pytest.mark.parametrize("best", [1, 3])
def test_a_clips_answer_does_not_depend_on_its_batch(best):
    """With a language model too, whose states tell which texts have the same future."""
    emissions, tokenizer = noisy(8, frames=30)
    words = bigram(["<unk>", "<s>", "</s>", "i", "have", "a", "good"], [[1, 3], [3, 4], [4, 5], [5, 6]])
    for fusion in (None, WordFusion(tokenizer, words, ALPHA, BETA, UNKNOWN)):
        search = BeamSearch(tokenizer, fusion, beam=6, best=best)
        together = search(emissions)
        for row, length, expected in zip(emissions.log_probs, emissions.lengths, together, strict=True):
            alone = search(Emissions(row[None, :length], length[None], 0.02))[0]
            assert len(alone) == best and [h.text for h in alone] == [h.text for h in expected]
            assert [h.score for h in alone] == pytest.approx([h.score for h in expected], abs=1e-9)


def test_a_wider_beam_finds_no_worse_text():
    emissions, tokenizer = noisy(3, frames=40)
    scores = [[texts[0].score for texts in BeamSearch(tokenizer, beam=beam)(emissions)] for beam in (2, 10, 100)]
    assert all(a <= b + 1e-9 for narrow, wide in itertools.pairwise(scores) for a, b in zip(narrow, wide, strict=True))
    assert scores[0] != scores[2]


def test_clips_without_a_frame_and_clips_of_blanks_give_an_empty_text():
    log_probs = torch.full((2, 5, 4), -20.0)
    log_probs[..., 3] = 0.0
    found = BeamSearch(TOKENIZER)(Emissions(log_probs, torch.tensor([5, 0]), 0.02), words=True)
    assert [[hypothesis.text for hypothesis in texts] for texts in found] == [[""], [""]]
    assert found[0][0].score == pytest.approx(0.0) and found[0][0].words == []
    assert BeamSearch(TOKENIZER)(Emissions(torch.empty(0, 0, 4), torch.empty(0, dtype=torch.long), 0.02)) == []


def test_scores_that_are_impossible_are_no_trouble():
    log_probs = torch.full((1, 4, 4), float("-inf"))
    for frame, token in enumerate([1, 3, 2, 0]):
        log_probs[0, frame, token] = 0.0
    best = BeamSearch(TOKENIZER)(Emissions(log_probs, torch.tensor([4]), 0.02), words=True)[0][0]
    assert best.text == "ab" and best.score == pytest.approx(0.0)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_frames_that_say_nothing_are_blanks(value):
    emissions = spoken("ab", TOKENIZER)
    emissions.log_probs[0, 1] = value
    assert BeamSearch(TOKENIZER)(emissions, words=True)[0][0].text == "ab"
    emissions.log_probs[0, 2, 1] = float("nan")
    assert BeamSearch(TOKENIZER)(emissions)[0][0].text == "a"
    emissions.log_probs[:] = value
    assert BeamSearch(TOKENIZER, WordFusion(TOKENIZER, WORDS))(emissions, words=True)[0][0].text == ""


def test_half_precision_is_enough():
    emissions = random_emissions(3, 8, spread=2.0, seed=1)
    halves = emissions._replace(log_probs=emissions.log_probs.half())
    full, half = (BeamSearch(TOKENIZER)(each)[0][0] for each in (emissions, halves))
    assert half.text == full.text and half.score == pytest.approx(full.score, abs=0.02)


def test_a_vocabulary_without_a_space_and_one_of_longer_tokens():
    phonemes = CharTokenizer({"tʃ": 0, "ə": 1, "<pad>": 2}, space=None, unk=None, pad="<pad>", phonemes=True)
    emissions = spoken("tʃ ə tʃ", phonemes)
    corpus = Corpus()
    corpus.add(["tʃ", "ə", "tʃ"])
    lm = LanguageModel(estimate_ngram(corpus, 2).ngram)
    for fusion in (None, fusion_of(phonemes, lm)):
        best = BeamSearch(phonemes, fusion)(emissions, words=True)[0][0]
        assert best.text == "tʃ ə tʃ" and len(best.words) == 1
    with pytest.raises(InputError, match="has a space between them, this one has none"):
        fusion_of(phonemes, None, hot_words={"tʃ": 1.0})
    longer = CharTokenizer({"ch": 0, "c": 1, "a": 2, "|": 3, "[PAD]": 4}, unk=None)
    fusion = WordFusion(longer, None, hot_words={"cha": 10.0})
    assert BeamSearch(longer, fusion)(spoken("cha ca", longer))[0][0].text == "cha cha"


def test_nothing_is_known():
    no_word = bigram(["<unk>", "<s>", "</s>"], [[1, 2]])
    for fusion in (WordFusion(TOKENIZER, None, lexicon=[]), WordFusion(TOKENIZER, no_word)):
        assert BeamSearch(TOKENIZER, fusion)(spoken("ab", TOKENIZER))[0][0].text in ("", "ab")


def spoken(text, tokenizer, wrong=-4.0):
    """Emissions (1, T, V) that say a text, with a blank behind each letter."""
    tokens = [token for label in tokenizer.encode(text) for token in (label, tokenizer.blank_id)]
    log_probs = torch.full((1, len(tokens), len(tokenizer)), wrong)
    log_probs[0, torch.arange(len(tokens)), tokens] = 0.0
    return Emissions(log_probs.log_softmax(-1), torch.tensor([len(tokens)]), 0.02)


def test_a_hot_word_wins_where_it_is_nearly_heard():
    tokenizer = tokenizer_of(["|", *"abcdeiklmnrsu", "[PAD]"])
    emissions = spoken("ali ankarada", tokenizer)
    assert BeamSearch(tokenizer)(emissions)[0][0].text == "ali ankarada"
    fusion = WordFusion(tokenizer, None, hot_words={"ankarali": 20.0})
    assert BeamSearch(tokenizer, fusion)(emissions)[0][0].text == "ali ankarali"
    with pytest.raises(InputError, match="a hot word must be in the vocabulary's letters, 'xyz' is not"):
        WordFusion(tokenizer, None, hot_words={"xyz": 1.0})


def test_a_lexicon_allows_its_words_only():
    emissions = random_emissions(5, 12, spread=1.0, seed=3)
    free = BeamSearch(TOKENIZER)(emissions)
    held = BeamSearch(TOKENIZER, WordFusion(TOKENIZER, None, lexicon=["ab", "ba"]))(emissions)
    assert {word for texts in free for word in texts[0].text.split()} - {"ab", "ba"}
    assert {word for texts in held for word in texts[0].text.split()} <= {"ab", "ba"}


def test_a_space_at_the_end_adds_no_unknown_word():
    """pyctcdecode 0.5 scores an empty word there; the models of the XLSR blog end each clip with a space."""
    fusion = WordFusion(TOKENIZER, WORDS, ALPHA, BETA, UNKNOWN)
    bare, spaced = (BeamSearch(TOKENIZER, fusion)(spoken(text, TOKENIZER, -30.0))[0][0] for text in ("a ab", "a ab "))
    assert bare.text == spaced.text == "a ab"
    assert bare.score == pytest.approx(word_score("a ab"), abs=1e-4) == spaced.score


def test_a_language_model_of_characters_is_known_as_one():
    capitals = CharTokenizer({token: i for i, token in enumerate(["|", "A", "B", "[PAD]"])}, do_lower_case=True)
    fusion = fusion_of(capitals, LanguageModel(LETTERS, ALPHA, 0.3))
    assert isinstance(fusion, CharacterFusion) and fusion.spelled == 1.0
    best = BeamSearch(capitals, fusion)(spoken("ab", capitals, -30.0))[0][0]
    assert best.text == "ab" and best.score == pytest.approx(letter_score("ab"), abs=1e-4)
    chinese = bigram(["<unk>", "<s>", "</s>", *map(chr, range(0x4E00, 0x4E00 + 100))], [[1, 3]])
    few = tokenizer_of([*map(chr, range(0x4E00, 0x4E00 + 20)), "|", "[PAD]"])
    fusion = fusion_of(few, LanguageModel(chinese))
    assert isinstance(fusion, CharacterFusion) and fusion.spelled == 0.2
    assert isinstance(fusion_of(TOKENIZER, LanguageModel(WORDS)), WordFusion)
    with pytest.raises(InputError, match="none of 100 is, such as"):
        fusion_of(TOKENIZER, LanguageModel(chinese))


@pytest.mark.parametrize("given", [{"alpha": float("nan")}, {"beta": float("-inf")}, {"hot_words": {"ab": 1e300}}])
def test_weights_that_are_no_numbers_are_refused(given):
    with pytest.raises(InputError, match=r"^`(alpha|beta|hot_words)` must be a number of at most 1e\+06, got "):
        fusion_of(TOKENIZER, LanguageModel(WORDS), **given)


def test_a_language_model_of_other_letters_is_refused():
    with pytest.raises(InputError, match="none of 1 is, such as 'да'"):
        WordFusion(TOKENIZER, bigram(["<unk>", "<s>", "</s>", "да"], [[1, 3]]))
