"""What is found in texts, what is not, and that hostile texts cost no more time than others."""

# ruff: noqa: RUF001  # characters that look like others are what is tested

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.pii import Kind, Redactor, find, finding, network, numbers, secrets

FOUND: list[tuple[Kind, str, str]] = [
    ("email", "write to jane.doe+news@mail.example.co.uk, please", "jane.doe+news@mail.example.co.uk"),
    ("email", "<müller@exämple.de>", "müller@exämple.de"),
    ("email", "联系user@example.com谢谢", "user@example.com"),
    ("email", "user＠example．com", "user＠example．com"),
    ("email", "mailto:o'neil@example.com?subject=x", "o'neil@example.com"),
    ("email", "'joe@example.com_old'", "joe@example.com"),
    ("phone", "call +49 30 901820 now", "+49 30 901820"),
    ("phone", "call (415) 555-2671", "(415) 555-2671"),
    ("phone", "415-555-2671", "415-555-2671"),
    ("phone", "tel:+442079460958", "+442079460958"),
    ("phone", "٠ +٤٩ ٣٠ ٩٠١٨٢٠", "+٤٩ ٣٠ ٩٠١٨٢٠"),
    ("card", "card 4111 1111 1111 1111.", "4111 1111 1111 1111"),
    ("card", "4111–1111–1111–1111", "4111–1111–1111–1111"),
    ("card", "卡号4111111111111111谢谢", "4111111111111111"),
    ("card", "12,5500005555555559,x", "5500005555555559"),
    ("card", "amex 3782 822463 10005", "3782 822463 10005"),
    ("iban", "to DE89 3704 0044 0532 0130 00 and more", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432", "GB82WEST12345698765432"),
    ("iban", "nl91 abna 0417 1643 00", "nl91 abna 0417 1643 00"),
    ("ip", "from 203.0.113.57:443", "203.0.113.57"),
    ("ip", "host=10.20.30.40", "10.20.30.40"),
    ("ip", "10.20.30.40-10.20.30.49", "10.20.30.40"),
    ("ip", "http://192.168.100.20/x", "192.168.100.20"),
    ("ip", "[2001:db8::8a2e:370:7334]:80", "2001:db8::8a2e:370:7334"),
    ("ip", "fe80::1: down", "fe80::1"),
    ("secret", "sk-proj-abcDEF0123456789abcDEF", "sk-proj-abcDEF0123456789abcDEF"),
    ("secret", "use ghp_" + "a1B2" * 9, "ghp_" + "a1B2" * 9),
    ("secret", "AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", "lk-" + "a1B2c3D4" * 5 + "xyz", "lk-" + "a1B2c3D4" * 5 + "xyz"),
    ("secret", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN"),
    ("secret", "DB_PASSWORD='hunter2hunter'", "hunter2hunter"),
    ("secret", '{"api_key": "d41d8cd98f00b204e9800998ecf8427e"}', "d41d8cd98f00b204e9800998ecf8427e"),
    ("secret", "Authorization: Bearer 0123456789abcdef01", "0123456789abcdef01"),
    ("secret", "postgres://app:s3cret@db/x", "s3cret"),
    ("secret", "key is wJalrXUtnFEMI/K7MDENG/bPxRfiCYzq8Q2v1L0s", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzq8Q2v1L0s"),
    ("secret", "-----BEGIN RSA PRIVATE KEY-----\nMIIB", "-----BEGIN RSA PRIVATE KEY-----\nMIIB"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "value"), FOUND)
def test_what_belongs_to_someone_is_found(kind: Kind, text: str, value: str) -> None:
    assert (kind, value) in [(span.kind, text[span.start : span.end]) for span in find(text)]


def test_a_private_key_is_found_whole() -> None:
    text = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----"
    assert Redactor().text(f"a {text} b {text} c") == "a <SECRET> b <SECRET> c"


ORDINARY = [
    "0.4111111111111111 3.141592653589793 -273.15 1e-6 1,234,567.89 12 345 678 4111111111111112",
    "2024-01-02 03:04:05 20240102T030405Z 2024-01-02T03:04:05.123456+00:00 12/31/2023 1700000000 1700000000123456789",
    "seed 2147483647, id 2125551234, rows 1 2 3 4 5 6 7 8 9 10, pages 100-250, 555-1234",
    "ray 2.60.0, v1.2.3.4, 1.2.3.4, version 10.0.19.41, name==1.22.33.44, Chrome/120.0.0.0, pkg-1.20.30.40.tar.gz",
    "section 10.11.12.13, 127.0.0.1:8000, ::1, 0.0.0.0, 1.2.3, 300.1.2.3, 10.0.0.1.2",
    "react@18.2.0 @types/node@20.1.0 demo@champion git@github.com:org/repo.git image@2x.png a @ b.T x@y numpy@1.26.dev0",
    "libstdc++6 python3-minimal linux-image-6.1.0-13-amd64 std::vector<int> crate::abc::def abc::d1 aa:bb:cc:dd:ee:ff",
    "meta-llama/Meta-Llama-3-8B-Instruct-AWQ-INT4 Qwen2ForSequenceClassificationModel HuggingFaceTB/SmolLM2-135M-Instruct",
    "550e8400-e29b-41d4-a716-446655440000 d41d8cd98f00b204e9800998ecf8427e 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
    "max_tokens=1234567890 the secret: patience and practice. token: tokenizer.eos_token_id token = get_token_v2(client)",
    "ISBN 978-3-16-148410-0 DOI 10.1000/182 RFC 2616 DE89 3704 0044 0532 0130 01 order 1234-5678-9012-3456",
    "cp311-cp311-manylinux_2_17_x86_64 /usr/lib/python3.11/site-packages/torch/nn/modules/linear.py sk-learn-wrapper-for-all",
    "basic reconfigurability and a bearer acknowledgement; https://example.com/a/b?c=1&d=2#e-f_g",
    "pneumonoultramicroscopicsilicovolcanoconiosis " + "ACGT" * 20 + " " + "ab" * 40,
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert [(span.kind, text[span.start : span.end]) for span in find(text)] == []


def test_the_shipped_example_data_stays_as_it_is() -> None:
    from tests.conftest import EXAMPLES

    text = (EXAMPLES / "train.jsonl").read_text(encoding="utf-8")
    assert len(text) > 100_000
    assert [text[span.start - 20 : span.end + 20] for span in find(text)] == []


def test_a_region_writes_numbers_its_own_way() -> None:
    assert find("ring 030 901820", regions=()) == []
    assert [span.kind for span in find("ring 030 901820", regions=("DE",))] == ["phone"]
    assert find("call (415) 555-2671", regions=()) == []


def test_only_the_kinds_that_are_asked_for_are_found() -> None:
    text = "a@example.com 203.0.113.57"
    kinds: tuple[Kind, ...] = ("ip",)
    assert [span.kind for span in find(text, kinds)] == ["ip"]


HOSTILE = [
    "a", "@", "a@", "a@a", "a.a@b-", "1", "1 ", "123 ", "1-1.1/", "212-555-1234 ", "+1 ", "(", "4111 1111 1111 111",
    "DE89", "DE89 ", "1.1.1.1.", "::", "2001:", "f:", "eyJ", "eyJa.", "eyJaaaaaaaaa.", "sk-", "sk-a1", "://a:", "://",
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "token=", "token is ", "password=a1!", "bearer ", "aA1", "a-", "\\u0040",
    "٣", "é@", "谢@", "xox", "SG.a1aaaaaaaaaaaaaaa",
]  # fmt: skip
LENGTH = 40_000


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_costs_time_in_proportion_to_its_length(piece: str) -> None:
    """A pattern that goes back over a text again and again takes minutes for this length."""
    text = (piece * LENGTH)[:LENGTH]
    began = time.process_time()
    find(text)
    assert time.process_time() - began < 6


TEXTS = st.text(alphabet=st.sampled_from("aZé谢٣09 @.:-+/=_()[]{}<>\\\"'\n\u00a0"), max_size=200) | st.text(
    max_size=200
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(TEXTS)
def test_places_are_in_order_and_within_the_text(text: str) -> None:
    places = [edge for span in find(text, regions=("US", "DE")) for edge in (span.start, span.end)]
    assert places == sorted(places)
    assert all(0 <= place <= len(text) for place in places)
    assert len(set(places[::2])) == len(places) // 2


@settings(deadline=None, max_examples=200, derandomize=True)
@given(TEXTS, st.sampled_from(FOUND), TEXTS)
def test_no_surroundings_hide_what_is_there(before: str, found: tuple[Kind, str, str], after: str) -> None:
    _, text, value = found
    assert value not in Redactor().text(f"{before}\n\n{text}\n\n{after}")


PIECES = [text for _, text, _ in FOUND] + [
    *("password is s3cretſ99", "feab::dcba", "fcab:aaaa::", "Basic YWxhZGRpbjpvcGVu1234", "a@b.co", "⑴⑵⑶", "١٢٣"),
    *("-----BEGIN EC PRIVATE KEY-----\nMII", "x://u:pass@h", "no", "::", ":a:", " ", ".1.2.3", "1.2.3.44", "PWD=abcdefg1", "key", "toKen: abcdefg1", "ſecret=“abcdefg1”", "prıvate_key=abcdefg1", "KEY IS abcdefg1é"),
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=12)), max_size=4), st.sampled_from(["", " ", "\n"]))
def test_what_is_quick_to_look_for_first_leaves_nothing_out(pieces: list[str], between: str) -> None:
    text = between.join(pieces)
    quick = find(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "_may_hold", lambda plain: True)
        patch.setattr(secrets, "_may_name", lambda text, quick: True)
        patch.setattr(numbers, "_CARD_DIGITS", re.compile(""))
        patch.setattr(numbers, "_IBAN_DIGITS", re.compile(""))
        patch.setattr(network, "_POINTS", re.compile(""))
        patch.setattr(network, "_COLONS", re.compile(""))
        assert find(text) == quick
