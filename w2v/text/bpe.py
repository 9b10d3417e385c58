"""Byte-level byte pair encoding, as GPT-2 and Whisper write text.

    pairs = BytePairs(vocab, merges)              # of vocab.json and merges.txt
    pairs.decode(pairs.encode(" ığdır 12"))       # " ığdır 12"

A token is a run of bytes. Files spell it with one printable character for each byte: Ġ is the space.
"""

import functools
import logging
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from w2v.errors import InputError, show

log = logging.getLogger("w2v")

REMEDY = "use the vocabulary and the merges that the model was trained with"
# Unicode's White_Space. Python's \s also has U+001C to U+001F, which are no spaces to the peers.
SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
MOST_WORDS = 1 << 16  # whose ids are kept
LONGEST_WORD = 64  # characters; longer ones hardly come again


def _characters() -> list[str]:
    """GPT-2's bytes_to_unicode, by byte: printable characters of Latin-1 stand for themselves."""
    kept = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


CHARACTERS = _characters()
BYTES = {char: byte for byte, char in enumerate(CHARACTERS)}


def spelled(token: bytes) -> str:
    """A token's bytes as the files spell them."""
    return "".join(CHARACTERS[byte] for byte in token)


def bytes_of(token: str) -> bytes:
    """The bytes that a file's spelling stands for. InputError where it is none."""
    try:
        return bytes(BYTES[char] for char in token)
    except KeyError:
        raise InputError(
            f"a byte-level vocabulary must spell each byte as GPT-2 does (Ġ for the space), got {show(token)}; {REMEDY}"
        ) from None


@functools.cache
def _words() -> re.Pattern[str]:
    r"""OpenAI's `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` without its \p.

    What \p{L} and \p{N} hold is by Python's Unicode, the peers' is by theirs: letters that only the newer of the two
    knows may be cut into words in another way. Python's \w is both of them and the underscore.
    """
    numbers, first = [], None
    for code in range(sys.maxunicode + 2):
        is_number = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == "N"
        if is_number and first is None:
            first = code
        elif not is_number and first is not None:
            numbers.append(f"{chr(first)}-{chr(code - 1)}")
            first = None
    number = "".join(numbers)
    return re.compile(
        f"'s|'t|'re|'ve|'m|'ll|'d| ?[^\\W_{number}]+| ?[{number}]+| ?(?:_|[^\\w{SPACES}])+"
        f"|[{SPACES}]+(?![^{SPACES}])|[{SPACES}]+"
    )


class BytePairs:
    """Text <-> ids of the tokens of a vocabulary.

    Text is cut into words by OpenAI's pattern, and a word into its bytes. Of the pairs of neighbours that are in
    `merges` the earliest one becomes one token, until there is none: as tokenizers does, and as tiktoken does by the
    ranks of the tokens. A text that looks like a special token is text, as with tiktoken's disallowed_special=().

    vocab: tokens in the files' spelling -> ids. merges: pairs of them in the order of merging; a token's id is in that
    order too. So pairs that the merges lack are mended from the ids, with a warning. None: there are only the ids.
    InputError where a byte has no token, for pairs that do not fit the vocabulary, or where None is given and a token
    is not made of two earlier ones.
    """

    def __init__(self, vocab: dict[str, int], merges: Iterable[Sequence[str]] | None):
        self._bytes = {i: bytes_of(token) for token, i in vocab.items()}
        lacking = [byte for byte, char in enumerate(CHARACTERS) if char not in vocab]
        if lacking:
            raise InputError(
                f"a byte-level vocabulary must have a token for each of the 256 bytes, {lacking[0]} has none; {REMEDY}"
            )
        self._of_byte = [vocab[char] for char in CHARACTERS]
        self._ranks: dict[tuple[int, int], tuple[int, int]] = {}  # pair -> its rank, what it becomes
        self._found: dict[str, list[int]] = {}  # words that came before
        for rank, (left, right) in enumerate(merges or ()):
            if not (left and right and left in vocab and right in vocab and left + right in vocab):
                raise InputError(
                    "a merge must join two tokens of the vocabulary to a third one of it, "
                    f"merge {rank + 1} joins {show(left)} and {show(right)}; {REMEDY}"
                )
            self._ranks[vocab[left], vocab[right]] = rank, vocab[left + right]
        self._mend(is_expected=merges is None)

    def _mend(self, is_expected: bool) -> None:
        """Find the pairs of tokens that no merge makes."""
        made = [i for _, i in sorted(self._ranks.values())]
        lacking = sorted({i for i, token in self._bytes.items() if len(token) > 1}.difference(made))
        if not lacking:
            return
        mended = []
        if is_ordered := made == sorted(set(made)):  # ids are in the order of merging: they can be the ranks
            self._ranks = {pair: (i, i) for pair, (_, i) in self._ranks.items()}
            for i in lacking:
                parts = self._merge(self._bytes[i], below=i)
                if len(parts) == 2:
                    self._ranks[parts[0], parts[1]] = i, i
                    mended.append(i)
        left_over = sorted(set(lacking).difference(mended))
        if left_over and is_expected:
            token = show(spelled(self._bytes[left_over[0]]))
            raise InputError(f"a token's bytes must be those of two earlier tokens, {token} has no such two; {REMEDY}")
        if is_expected:
            return
        if mended:
            first = show(self._bytes[mended[0]].decode("utf-8", "replace"))
            count = f"{len(mended)} of {len(self._ranks)}"
            log.warning(f"the merges lacked {count} pairs, the first one makes {first}; they were found by the ids")
        if left_over:
            why = "no two earlier ones make them" if is_ordered else "its ids are not in the order of the merges"
            log.warning(f"{len(left_over)} tokens of the vocabulary will not be written: {why}")

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs in order, in the files' spelling, those that were mended too."""
        ordered = sorted(self._ranks, key=self._ranks.__getitem__)
        return [(spelled(self._bytes[left]), spelled(self._bytes[right])) for left, right in ordered]

    def encode(self, text: str) -> list[int]:
        """Text -> ids. Half of a surrogate pair, which is no character, counts as U+FFFD."""
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        out: list[int] = []
        for word in _words().findall(text):
            ids = self._found.get(word)
            if ids is None:
                ids = self._merge(word.encode("utf-8"))
                if len(self._found) < MOST_WORDS and len(word) <= LONGEST_WORD:
                    self._found[word] = ids
            out += ids
        return out

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; bytes that are no UTF-8 become U+FFFD. Ids that are not of the vocabulary are left out."""
        return self.bytes_of(ids).decode("utf-8", "replace")

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._bytes.get(i, b"") for i in ids)

    def _merge(self, word: bytes, below: int | None = None) -> list[int]:
        """The tokens of a word. below: only merges of lower ranks.

        Each merge costs the logarithm of the word's length: a stranger's text can be one word of a million bytes.
        """
        tokens = [self._of_byte[byte] for byte in word]
        before, after = list(range(-1, len(tokens) - 1)), list(range(1, len(tokens) + 1))
        ranks = self._ranks

        def candidate(at: int) -> tuple[int, int, int, int, int] | None:
            pair = tokens[at], tokens[after[at]]
            rank, joined = ranks.get(pair, (-1, -1))
            return (rank, at, *pair, joined) if joined >= 0 and (below is None or rank < below) else None

        heap = [found for at in range(len(tokens) - 1) if (found := candidate(at))]
        heapify(heap)
        while heap:
            _, at, left, right, joined = heappop(heap)
            following = after[at]
            if tokens[at] != left or following == len(tokens) or tokens[following] != right:
                continue  # one of the two has been merged since
            tokens[at], tokens[following] = joined, -1
            after[at] = after[following]
            neighbours = [before[at]] if before[at] >= 0 else []
            if after[at] < len(tokens):
                before[after[at]] = at
                neighbours.append(at)
            for place in neighbours:
                if found := candidate(place):
                    heappush(heap, found)
        return [token for token in tokens if token >= 0]
