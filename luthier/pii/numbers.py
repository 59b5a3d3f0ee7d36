"""Numbers that belong to someone: payment cards, bank accounts, telephones. What a checksum or a numbering plan denies is
none of them.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from functools import cache

# Digits in one piece, or in the groups that cards show: 4-4-4-4(-3), and 4-6-5 or 4-6-4. Digits behind a point are a
# fraction's.
_CARD = re.compile(
    r"(?<![0-9A-Za-z])(?<!\d\.)"
    r"(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5})"
    r"(?![0-9A-Za-z])(?!\.\d)"
)
# Issuers' first digits and lengths: ISO/IEC 7812 and https://en.wikipedia.org/wiki/Payment_card_number
_ISSUED = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12})"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]|[689]\d)\d{11}"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d\d|35(?:2[89]|[3-8]\d))\d{12,15}"  # Discover, JCB
    r"|62\d{14,17}"  # UnionPay
)
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}\d{2} ?[0-9A-Za-z]{2}")
_LETTERS_AND_DIGITS = frozenset(string.ascii_letters + string.digits)
_GROUP = re.compile(r"(\d+)!")
# What is quick to look for, and no card and no account number is without.
_CARD_DIGITS = re.compile(r"\d{4}[ -]?\d{4}")
_IBAN_DIGITS = re.compile(r"\d\d ?[0-9A-Za-z]{2}")
_SEVEN_DIGITS = re.compile(r"\d(?:[^\d\n]{0,6}\d){6}")


def cards(text: str) -> Iterator[tuple[int, int]]:
    """Numbers of payment cards that an issuer may have given out and whose check digit is right."""
    for match in _CARD.finditer(text) if _CARD_DIGITS.search(text) else ():
        digits = re.sub(r"[ -]", "", match[0])
        if _ISSUED.fullmatch(digits) and _luhn(digits):
            yield match.span()


def _luhn(digits: str) -> bool:
    from stdnum import luhn

    return bool(luhn.is_valid(digits))


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """International bank account numbers whose length, form and check digits are right."""
    for match in _IBAN.finditer(text) if _IBAN_DIGITS.search(text) else ():
        length = _iban_length(match[0][:2].upper())
        end = _end_of(text, match.start(), length) if length else None
        if end is not None and text[end : end + 1] not in _LETTERS_AND_DIGITS and _iban(text[match.start() : end]):
            yield match.start(), end


def _end_of(text: str, start: int, length: int) -> int | None:
    """Where ``length`` letters and digits end, single spaces or dashes between them left out; None: they are fewer."""
    counted, place = 0, start
    while counted < length:
        if text[place : place + 1] in _LETTERS_AND_DIGITS:
            counted += 1
        elif text[place : place + 1] not in (" ", "-") or text[place - 1] not in _LETTERS_AND_DIGITS:
            return None
        place += 1
    return place


@cache
def _iban_length(country: str) -> int | None:
    from stdnum import numdb

    (_, facts), *_ = numdb.get("iban").info(country + "00")
    return 4 + sum(map(int, _GROUP.findall(facts["bban"]))) if facts.get("bban") else None


def _iban(number: str) -> bool:
    from stdnum import iban

    return bool(iban.is_valid(number, check_country=False))


def phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Telephone numbers that exist by the numbering plans: with ``+`` and country code, or as a region writes its own.

    A bare row of digits is none, as it is more often a count or an id.
    """
    if not _SEVEN_DIGITS.search(text):
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    for match in PhoneNumberMatcher(text, None, Leniency.VALID, max_tries=len(text)):
        yield match.start, match.end
    for region in regions:
        for match in PhoneNumberMatcher(text, region, Leniency.STRICT_GROUPING, max_tries=len(text)):
            if not match.raw_string.isdigit():
                yield match.start, match.end
