"""E-mail and IP addresses."""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Iterator
from unicodedata import category

_LOCAL = frozenset(string.ascii_letters + string.digits + "._%+'-")
_LONGEST_LOCAL = 64
_LONGEST_DOMAIN = 253
_DOMAIN = re.compile(
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?!(?:png|jpe?g|gif|svg|webp|dev\d)\b)"  # image@2x.png, tool@1.2.dev3
    r"(?:[A-Za-z]{2,63}+|[^\W\d_A-Za-z]{2,63}+|xn--[a-z0-9-]{2,59}+)(?!\d)"
)
# Behind a name and a slash, a dash or a comparison stands a version: Chrome/120.0.0.0, name-1.2.3.40, name==1.2.3.40
_IPV4 = re.compile(
    r"(?<![\w.])(?<![A-Za-z_][/-])(?<![=<>~!]=)\d{1,3}(?:\.\d{1,3}){3}(?!\w)(?!-[A-Za-z])(?!\.\d)", re.ASCII
)
_VERSION = re.compile(r"\b(?:v|ver|version|release|section|chapter|build)[.: ]{0,2}$", re.IGNORECASE)
# Global (2000::/3), link-local and unique local addresses, by their first group: a::b of a program is none.
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[23][0-9a-f]{3}|fe[89ab][0-9a-f]|f[cd][0-9a-f]{2})(?::[0-9a-f]{0,4}){2,7}(?![\w:])",
    re.ASCII | re.IGNORECASE,
)

# What is quick to look for, as it begins with one certain character, and no address is without.
_POINTS = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d", re.ASCII)
_COLONS = re.compile(r":[0-9a-f]{0,4}:", re.ASCII | re.IGNORECASE)


def emails(text: str) -> Iterator[tuple[int, int]]:
    """E-mail addresses; ``git@host:`` of a repository is none."""
    place = -1
    while (place := text.find("@", place + 1)) >= 0:
        local = _local_part(text[max(0, place - _LONGEST_LOCAL) : place])
        if not local:
            continue
        domain = _DOMAIN.match(text, place + 1, place + 1 + _LONGEST_DOMAIN)
        if domain and not (local == "git" and text.startswith(":", domain.end())):
            yield place - len(local), domain.end()


def _local_part(before: str) -> str:
    """What of the characters before an ``@`` belongs to an address. Scripts without capitals, some of which write no
    spaces either, belong to it only where it is written in them.
    """
    start = len(before)
    scripts = {"Lu", "Ll", "Lm", "Lo"} if category(before[-1:] or " ") == "Lo" else {"Lu", "Ll", "Lm"}
    while start and (before[start - 1] in _LOCAL or category(before[start - 1]) in scripts):
        start -= 1
    return before[start:].lstrip("._%+'-")


def addresses(text: str) -> Iterator[tuple[int, int]]:
    """IP addresses. This machine's own (127.0.0.1, ::1, 0.0.0.0) are nobody's, and four parts of one digit each, or behind
    the word version, are a version.
    """
    for match in _IPV4.finditer(text) if _POINTS.search(text) else ():
        short = len(match[0]) == len("1.2.3.4")
        if not short and not _VERSION.search(text[max(0, match.start() - 12) : match.start()]) and _belongs(match[0]):
            yield match.span()
    for match in _IPV6.finditer(text) if may_hold_ipv6(text) else ():
        told = match[0] if match[0].endswith("::") else match[0].removesuffix(":")
        if _belongs(told):
            yield match.start(), match.start() + len(told)


def may_hold_ipv6(text: str) -> bool:
    """Whether a text has colons as an IPv6 address has them."""
    return _COLONS.search(text) is not None


def _belongs(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_unspecified)
