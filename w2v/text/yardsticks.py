"""Text rules of others, for error rates that stand beside theirs. Training never uses them: see normalise.py.

Each is a function sentence -> text and is given references as they are written, and hypotheses.
"""

import re
import unicodedata

IGNORED_BY_BLOG = re.compile('[,?.!\\-;:"“%‘”\ufffd]')


def hf_blog(sentence: str) -> str:
    """chars_to_ignore_regex of Hugging Face's XLSR blog and fine-tuning week, then Python's lower().

    Other punctuation stays (’ among it), and İ becomes i with a dot above, which no other text has.
    """
    return IGNORED_BY_BLOG.sub("", sentence).lower()


def whisper_basic(sentence: str) -> str:
    """Whisper's BasicTextNormalizer without its options (openai/whisper, whisper/normalizers/basic.py).

    Marks become spaces as punctuation does: words of Indic scripts are cut, and so is a Turkish word with İ, whose
    lower case is i and a mark.
    """
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", sentence.lower())
    text = unicodedata.normalize("NFKC", re.sub(r"\(([^)]+?)\)", "", text))
    text = "".join(" " if unicodedata.category(char)[0] in "MSP" else char for char in text).lower()
    return re.sub(r"\s+", " ", text)


def none(sentence: str) -> str:
    """As it is written: capitals and punctuation count."""
    return sentence


YARDSTICKS = {"hf-blog": hf_blog, "whisper-basic": whisper_basic, "none": none}
