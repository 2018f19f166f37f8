"""The presets: which names and which texts give away a secret.

No expression here takes more than linear time, whatever the text: what repeats is possessive, or
bounded, or begins where nothing of its kind stands before it.
"""

import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from spanferry.redacting.fields import fold

__all__ = ["FIELDS", "RULES", "Rule"]


class Rule(Struct, frozen=True):
    """One kind of secret in texts.

    Where a string of a JSON text holds one, either one of `needles` is before a colon in what `fold`
    makes of the JSON text, or `may_be_in` says so of the JSON text and the folded one: unless it has
    other escapes than a backslash and one of " \\ b f n r t.
    `replaced` answers the very same text where there is none.
    """

    needles: tuple[bytes, ...]
    folds: bool
    """Whether `may_be_in` looks at the folded text, which takes time to make."""
    may_be_in: Callable[[bytes, bytes], bool]
    replaced: Callable[[str], str]


_TOKEN_FIELDS: Final = (
    "authorization",
    "proxyauthorization",
    "cookie",
    "setcookie",
    "jwt",
    "*accesstoken",
    "*refreshtoken",
    "*idtoken",
    "*authtoken",
    "*apitoken",
    "*sessiontoken",
    "*bearertoken",
)

FIELDS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "api-keys": tuple(
        (field, "api-key")
        for field in ("*apikey*", "*secretkey*", "*accesskey*", "*privatekey*", "*clientsecret*")
    ),
    "tokens": tuple((field, "token") for field in _TOKEN_FIELDS),
    "passwords": tuple(
        (field, "password") for field in ("*password*", "*passwd*", "*passphrase*", "pwd")
    ),
    "emails": (),
    "cards": (),
}
"""By preset: fields, and the word of their mark."""

ASSIGNED_VALUE: Final = r"(?!\[REDACTED:)(?:\"[^\"]*+\"|'[^']*+'|[^\s,;&\"'<>)}\]]++)"
"""In texts that are no JSON, such as a form, a query or Python's repr: what follows `name=`."""

# --- API keys ---------------------------------------------------------------------------------

_RUN_BYTES: Final = 20
_KEY_BYTES: Final = bytes(
    120 if (chr(code).isalnum() and code < 128) or code in b"_-" else 32 for code in range(256)
)
_RUN: Final = b"x" * _RUN_BYTES
_RUNS_MAX: Final = 64
"""So many runs are looked at one by one; of more, such as base64's, the whole is searched at once."""

_KEY: Final = (
    r"(?:sk-[A-Za-z0-9_-]{17,}+"  # OpenAI, Anthropic, OpenRouter, LiteLLM, Langfuse
    r"|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{12,}+|whsec_[A-Za-z0-9]{20,}+"  # Stripe
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{30,}+|github_pat_[A-Za-z0-9_]{20,}+|glpat-[A-Za-z0-9_-]{16,}+"
    r"|xox[abeoprs]-[A-Za-z0-9-]{16,}+|xapp-[A-Za-z0-9-]{16,}+"  # Slack
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|hf_[A-Za-z0-9]{20,}+|dapi[0-9a-f]{32}(?:-\d)?|gsk_[A-Za-z0-9]{20,}+|xai-[A-Za-z0-9]{20,}+"
    r"|r8_[A-Za-z0-9]{20,}+|pcsk_[A-Za-z0-9_]{20,}+|lsv2_(?:pt|sk)_[A-Za-z0-9_]{16,}+"
    r"|npm_[A-Za-z0-9]{30,}+|pypi-[A-Za-z0-9_-]{40,}+|SG\.[A-Za-z0-9_-]{20,}+\.[A-Za-z0-9_-]{16,}+)"
)
"""Each has a run of at least `_RUN_BYTES` letters, digits, `_` and `-` in it."""

_KEYS: Final = re.compile(rf"(?<![A-Za-z0-9_-]){_KEY}", re.ASCII)
_KEY_IN_BYTES: Final = re.compile(_KEY.encode())
_BEFORE_RUN: Final = 3
"""Bytes of a key that may stand before its long run: `SG.`."""
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


def _may_hold_key(data: bytes, folded: bytes) -> bool:  # noqa: ARG001  as all hints
    return b"-----BEGIN" in data or _has_key_run(data)


def _has_key_run(data: bytes) -> bool:
    """Whether a key may be in it: it needs a long run, which prose does not have."""
    mapped = data.translate(_KEY_BYTES)
    start = mapped.find(_RUN)
    for _ in range(_RUNS_MAX):
        if start < 0:
            return False
        end = mapped.find(b" ", start + _RUN_BYTES)
        end = len(data) if end < 0 else end
        # What follows a run is part of a key only where a dot stands between: SG.
        if _KEY_IN_BYTES.search(data, max(start - _BEFORE_RUN, 0), end + 80):
            return True
        start = mapped.find(_RUN, end)
    return start >= 0 and _KEY_IN_BYTES.search(data, start) is not None


_KEY_NEEDLES: Final = (b"apikey", b"secretkey", b"accesskey", b"privatekey", b"clientsecret")
_KEY_ASSIGNED: Final = re.compile(
    r"((?:(?:api|secret|access|private)[_ -]?key|client[_ -]?secret)[\w-]{0,40}[\"']?\s{0,4}[:=]\s{0,4})"
    + ASSIGNED_VALUE,
    re.IGNORECASE | re.ASCII,
)


def _without_keys(text: str) -> str:
    if len(text) >= _RUN_BYTES:
        text = _without_known_keys(text)
    if ":" in text or "=" in text:
        lower = text.lower()
        if "key" in lower or "secret" in lower:
            text = _replaced(_KEY_ASSIGNED, r"\1[REDACTED:api-key]", text)
    return text


def _without_known_keys(text: str) -> str:
    if "PRIVATE KEY-----" in text:
        text = _replaced(_PEM, "[REDACTED:private-key]", text)
    if len(text) > 200 and not _has_key_run(text.encode("utf-8", "replace")):
        return text
    return _replaced(_KEYS, "[REDACTED:api-key]", text)


# --- tokens -----------------------------------------------------------------------------------

_TOKEN_CHARS_MIN: Final = 15
"""`bearer` and eight more, `authorization:` and one more."""

_JWT: Final = re.compile(
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?"
)
_BEARER: Final = re.compile(
    r"(?<![A-Za-z0-9])(bearer[\s:]{1,8})(?=[^\s\d]{0,200}\d|[^\s]{32})[A-Za-z0-9._~+/=-]{8,}+",
    re.IGNORECASE | re.ASCII,
)
_AUTHORIZATION: Final = re.compile(
    r"(authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:(?:bearer|basic|digest|token)\s{1,4})?+)"
    r"(?!\[REDACTED:)[^\s,;\"'<>]{4,}+",
    re.IGNORECASE | re.ASCII,
)


def _may_hold_token(data: bytes, folded: bytes) -> bool:
    return b"eyJ" in data or b"bearer" in folded


def _without_tokens(text: str) -> str:
    if len(text) < _TOKEN_CHARS_MIN:
        return text
    if "eyJ" in text:
        text = _replaced(_JWT, "[REDACTED:jwt]", text)
    lower = text.lower()
    if "authorization" in lower:
        text = _replaced(_AUTHORIZATION, r"\1[REDACTED:token]", text)
    if "bearer" in lower:
        text = _replaced(_BEARER, r"\1[REDACTED:token]", text)
    return text


# --- passwords --------------------------------------------------------------------------------

_ASSIGNED: Final = re.compile(
    r"((?:password|passwd|passphrase|(?<![a-z])pwd)[\w-]{0,40}[\"']?\s{0,4}[:=]\s{0,4})"
    + ASSIGNED_VALUE,
    re.IGNORECASE | re.ASCII,
)
_IN_URL: Final = re.compile(r"(://[^\s/:@\"']{0,100}:)(?!\[REDACTED:)[^\s/@\"']{1,200}(?=@)")
_PASSWORD_NEEDLES: Final = (b"password", b"passwd", b"passphrase", b"pwd")


def _may_hold_password(data: bytes, folded: bytes) -> bool:  # noqa: ARG001  as all hints
    return b"@" in data and b"://" in data


def _without_passwords(text: str) -> str:
    if "@" in text and "://" in text:
        text = _replaced(_IN_URL, r"\1[REDACTED:password]", text)
    if ":" in text or "=" in text:
        lower = text.lower()
        if "pass" in lower or "pwd" in lower:
            text = _replaced(_ASSIGNED, r"\1[REDACTED:password]", text)
    return text


# --- e-mail addresses -------------------------------------------------------------------------

_AT: Final = re.compile(r"@(?:[\w-]++\.)+(?:[^\W\d_]{2,}|xn--[\w-]{2,})")
_AT_IN_URL: Final = re.compile(r"%40(?:[\w-]++\.)+(?:[^\W\d_]{2,}|xn--[\w-]{2,})")
_LOCAL_BACKWARDS: Final = re.compile(r"[\w.+-]*+")
_LOCAL_CHARS: Final = 128


def _may_hold_email(data: bytes, folded: bytes) -> bool:  # noqa: ARG001  as all hints
    return b"@" in data or (b"%" in data and b"%40" in data)


def _without_emails(text: str) -> str:
    if "@" in text:
        text = _without_addresses(_AT, text)
    return _without_addresses(_AT_IN_URL, text) if "%40" in text else text


def _without_addresses(at: re.Pattern[str], text: str) -> str:
    """From every domain backwards: forwards, a long text without any address takes long."""
    kept: list[str] = []
    done = 0
    for domain in at.finditer(text):
        before = text[max(done, domain.start() - _LOCAL_CHARS) : domain.start()]
        local = _LOCAL_BACKWARDS.match(before[::-1])
        start = domain.start() - (0 if local is None else local.end())
        if start < domain.start():
            kept += text[done:start], "[REDACTED:email]"
            done = domain.end()
    return "".join((*kept, text[done:])) if kept else text


# --- card numbers -----------------------------------------------------------------------------

_DIGITS: Final = re.compile(r"[0-9](?<![0-9][0-9])(?<![0-9]\.[0-9])(?:[ -]?[0-9]){12,}+")
"""Not what follows a number's point. The first digit goes before what must not be before it, because it
is what is searched for fast."""
_DIGITS_IN_BYTES: Final = re.compile(_DIGITS.pattern.encode())
_DIGIT_BYTES: Final = bytes(48 if chr(code) in "0123456789 -" else 120 for code in range(256))
_ZEROS: Final = b"0" * 13
_GROUP: Final = re.compile(r"[0-9]+")
_ISSUER: Final = re.compile(
    r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|35|6(?:011|4[4-9]|5|2)|5018|5020"
    r"|5038|6304|6759|676[1-3]"
)
_CARD_DIGITS: Final = range(13, 20)
_GROUP_DIGITS_MIN: Final = 3
"""Nobody writes the number of a card digit by digit; only what follows the others may be shorter."""


def _may_hold_card(data: bytes, folded: bytes) -> bool:
    if _ZEROS not in folded:
        return False
    mapped = data.translate(_DIGIT_BYTES)
    start = mapped.find(_ZEROS)
    for _ in range(_RUNS_MAX):
        if start < 0:
            return False
        end = mapped.find(b"x", start)
        end = len(data) if end < 0 else end
        if _has_card(data, max(start - 2, 0), end):
            return True
        start = mapped.find(_ZEROS, end)
    return start >= 0 and _has_card(data, start, len(data))


def _has_card(data: bytes, start: int, end: int) -> bool:
    found = _DIGITS_IN_BYTES.finditer(data, start, end)
    return any(_cards(digits.group().decode()) for digits in found)


def _without_cards(text: str) -> str:
    if len(text) < _CARD_DIGITS.start:
        return text
    if len(text) > 200:
        data = text.encode("utf-8", "replace")
        if not _may_hold_card(data, fold(data)):
            return text
    replaced = _DIGITS.sub(_without_card, text)
    return text if replaced == text else replaced


def _without_card(found: re.Match[str]) -> str:
    text = found.group()
    for start, end in reversed(_cards(text)):
        text = f"{text[:start]}[REDACTED:card]{text[end:]}"
    return text


def _cards(digits: str) -> list[tuple[int, int]]:
    """Where card numbers stand among groups of digits: each of whole groups, with a right checksum."""
    groups = [(one.start(), one.end(), one.group()) for one in _GROUP.finditer(digits)]
    found: list[tuple[int, int]] = []
    first = 0
    while first < len(groups):
        last = _last_group(groups, first)
        if last is None:
            first += 1
        else:
            found.append((groups[first][0], groups[last][1]))
            first = last + 1
    return found


def _last_group(groups: list[tuple[int, int, str]], first: int) -> int | None:
    number, last = "", None
    if groups[first][2][0] not in "23456":
        return None
    for index in range(first, len(groups)):
        if len(groups[index][2]) < _GROUP_DIGITS_MIN and len(number) < _CARD_DIGITS.start:
            break
        number += groups[index][2]
        if len(number) >= _CARD_DIGITS.stop:
            break
        if len(number) in _CARD_DIGITS and _ISSUER.match(number) and _luhn(number):
            last = index
    return last


def _luhn(number: str) -> bool:
    digits = [int(digit) for digit in reversed(number)]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _replaced(pattern: re.Pattern[str], mark: str, text: str) -> str:
    """The same text, and no copy, where nothing is found."""
    return pattern.sub(mark, text) if pattern.search(text) is not None else text


RULES: Final[dict[str, Rule]] = {
    "passwords": Rule(_PASSWORD_NEEDLES, False, _may_hold_password, _without_passwords),
    "tokens": Rule((b"authorization",), True, _may_hold_token, _without_tokens),
    "api-keys": Rule(_KEY_NEEDLES, False, _may_hold_key, _without_keys),
    "cards": Rule((), True, _may_hold_card, _without_cards),
    "emails": Rule((), False, _may_hold_email, _without_emails),
}
"""By preset, in the order in which they are applied."""
