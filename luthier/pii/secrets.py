"""API keys, tokens and passwords: by the form that their makers gave them, by the name before them, or by their disorder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

_BEGIN = r"(?<![A-Za-z0-9])"
# What a token contains for certain, and its form.
_SHAPES = tuple(
    (sure, re.compile(_BEGIN + form))
    for sure, form in (
        ("lk-", r"lk-[\w-]{43}+"),  # luthier's own
        ("sk-", r"sk-[\w-]{20,}+"),  # OpenAI, Anthropic and others
        ("_live_", r"[sr]k_live_\w{16,}+"),  # Stripe
        ("_test_", r"[sr]k_test_\w{16,}+"),
        *((f"gh{kind}_", rf"gh{kind}_[A-Za-z0-9]{{36,}}+") for kind in "pousr"),  # GitHub
        ("github_pat_", r"github_pat_\w{30,}+"),
        ("glpat-", r"glpat-[\w-]{20,}+"),  # GitLab
        ("hf_", r"hf_[A-Za-z0-9]{30,}+"),  # Hugging Face
        ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,}+"),  # Slack
        ("hooks.slack.com/", r"hooks\.slack\.com/services/[\w/]{20,}+"),
        ("AKIA", r"AKIA[A-Z0-9]{16}(?![A-Za-z0-9])"),  # AWS
        ("ASIA", r"ASIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
        ("AIza", r"AIza[\w-]{35}"),  # Google
        ("ya29.", r"ya29\.[\w-]{20,}+"),
        ("npm_", r"npm_[A-Za-z0-9]{36}"),
        ("pypi-", r"pypi-[\w-]{50,}+"),
        ("SG.", r"SG\.[\w-]{16,}+\.[\w-]{16,}+"),  # SendGrid
        ("eyJ", r"(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]{8,}+"),  # JSON web token
    )
)
BEGIN_OF_KEY = "-----BEGIN "
"""What a private key begins with."""

_PRIVATE_KEY = re.compile(BEGIN_OF_KEY + r"[A-Z ]{0,40}PRIVATE KEY")
_END_OF_KEY = re.compile(r"-----END [A-Z ]{0,40}-----")
_IN_URL = re.compile(r"://[^\s/:@]{0,64}:([^\s/@]{1,256})@")
_NAMED = re.compile(
    r"(?:api[_-]?key|access[_-]?key(?:[_-]?id)?|account[_-]?key|private[_-]?key|auth[_-]?key|token|secret|passw(?:or)?d|pwd)"
    r"[\"']?\s{0,3}(?::|=>?|\bis\b)\s{0,3}[\"']?([\w+/=.~!@#$%^&*-]{8,512}+)(?!\()",
    re.IGNORECASE,
)
_SENT = re.compile(r"\b(?:bearer|basic)\s{1,3}([\w.~+/=-]{16,}+)", re.IGNORECASE)
# How each of these ends in small letters, before a value with a digit in it: quick to look for.
_NAME = re.compile(
    r"(?:key|key[_-]?id|token|secret|passwo?r?d|pwd)[\"']?\s{0,3}(?::|=>?|is\b)\s{0,3}[\"']?(?=[\w+/=.~!@#$%^&*-]{0,511}\d)"
)
_LIKE_OURS = "\u017f\u212a\u0130\u0131"  # long s, Kelvin, I with a dot, i without one
_WAY = re.compile(r"\b(?:bearer|basic)\s")
_RUN = re.compile(r"(?<![\w+/=.-])[\w+/-]{24,}+={0,2}", re.ASCII)

_LEAST_CHANGES = 0.4
"""Of neighbouring characters, how many are of another class (small letter, capital, digit): 0.62 in random tokens of
these three, 0.2 to 0.3 in names such as Qwen2ForSequenceClassification."""


def secrets(text: str) -> Iterator[tuple[int, int]]:
    """Keys, tokens and passwords, without the names and addresses that they stand behind."""
    yield from made_as_secrets(text)
    for pattern, quick in ((_NAMED, _NAME), (_SENT, _WAY)):
        if not _may_name(text, quick):
            continue
        yield from (match.span(1) for match in pattern.finditer(text) if _letters_and_digits(match[1]))
    yield from (match.span() for match in _RUN.finditer(text) if _disordered(match[0]))


def _may_name(text: str, quick: re.Pattern[str]) -> bool:
    """Whether a text has what a pattern finds in small letters, or one of the letters that a search without regard to case
    takes for ours.
    """
    return any(letter in text for letter in _LIKE_OURS) or quick.search(text.lower()) is not None


def made_as_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Those that nothing else looks like: of a maker's form, private keys, and passwords in addresses."""
    for sure, shape in _SHAPES:
        if sure in text:
            yield from (match.span() for match in shape.finditer(text) if _letters_and_digits(match[0]))
    yield from _private_keys(text)
    yield from (match.span(1) for match in _IN_URL.finditer(text))


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    """Whole blocks; one that is cut off reaches to the end of the text."""
    reached = 0
    for match in _PRIVATE_KEY.finditer(text):
        if match.start() >= reached:
            end = _END_OF_KEY.search(text, match.end())
            reached = end.end() if end else len(text)
            yield match.start(), reached


def _letters_and_digits(value: str) -> bool:
    return any(one.isdigit() for one in value) and any(one.isalpha() for one in value)


def _disordered(run: str) -> bool:
    """Whether a run of characters looks drawn by lot; lower-case hexadecimal, which digests are written in, does not."""
    classes = ["0" if one.isdigit() else "A" if one.isupper() else "a" for one in run if one.isalnum()]
    if len(set(classes)) < 3 or len(classes) < 20:
        return False
    changes = sum(left != right for left, right in pairwise(classes))
    return changes >= _LEAST_CHANGES * (len(classes) - 1)
