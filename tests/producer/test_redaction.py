"""Redaction itself: what is found, whatever JSON makes of it, and what is left alone."""

import fnmatch
import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanferry import values
from spanferry.redacting.assignments import without_fields
from spanferry.redacting.presets import RULES
from spanferry.redacting.redactor import WITHHELD, Redactor
from spanferry.redaction import PRESETS, Redaction, redaction_of
from tests.producer.secrets import HARMLESS, OPENAI_KEY, SECRETS

ALL = Redactor(Redaction(presets=["all"], fields=["ssn", "*_code"]))
FIELDS = [
    "ssn",
    "*code",
    *["*apikey*", "*secretkey*", "*accesskey*", "*privatekey*", "*clientsecret*"],
]
FIELDS += ["authorization", "proxyauthorization", "cookie", "setcookie", "jwt", "*accesstoken"]
FIELDS += ["*refreshtoken", "*idtoken", "*authtoken", "*apitoken", "*sessiontoken", "*bearertoken"]
FIELDS += ["*password*", "*passwd*", "*passphrase*", "pwd"]

EVERY_SECRET = [(preset, secret) for preset, secrets in SECRETS.items() for secret in secrets]


def escaped(text: str) -> str:
    """A JSON text of which every character is an escape: what another encoder might have written."""
    units = text.encode("utf-16-be")
    pairs = zip(units[::2], units[1::2], strict=True)
    return '"' + "".join(f"\\u{high:02x}{low:02X}" for high, low in pairs) + '"'


def slow(data: Any) -> Any:
    """The obvious way: every string, every key, every rule."""
    if isinstance(data, dict):
        out: dict[str, Any] = {}
        for key, item in data.items():
            name = unique = slow_text(key)
            number = 1
            while unique in out:
                number += 1
                unique = f"{name} {number}"
            known = key.lower() if key.isascii() else "".join(map(ascii_lower, key))
            folded = known.translate(dict.fromkeys(map(ord, "_- "))).encode()
            folded = folded[-96:].decode("utf-8", "replace")  # of a longer key its end counts
            hit = any(fnmatch.fnmatchcase(folded, field) for field in FIELDS)
            out[unique] = "field" if hit and item is not None else slow(item)
        return out
    if isinstance(data, list):
        return [slow(item) for item in data]
    if isinstance(data, str):
        return slow_text(data)
    if type(data) is int:
        replaced = slow_text(str(data))
        return data if replaced == str(data) else replaced
    return data


def ascii_lower(letter: str) -> str:
    return letter.lower() if letter.isascii() else letter


def slow_text(text: str) -> str:
    if text.lstrip()[:1] in ("{", "[", '"'):
        try:
            within = json.loads(text)
        except ValueError:
            pass
        else:
            redacted = slow(within)
            return text if redacted == within else json.dumps(redacted)
    text = without_fields(text, ALL._fields)
    for rule in RULES.values():
        text = rule.replaced(text)
    return text


def same(fast: Any, reference: Any) -> bool:
    """With every field's mark as one, and JSON texts in strings by what they say."""
    return normal(fast) == normal(reference)


def normal(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: normal(item) for key, item in data.items()}
    if isinstance(data, list):
        return [normal(item) for item in data]
    if isinstance(data, str) and (data == "field" or re.fullmatch(r"\[REDACTED:[\w -]+\]", data)):
        return "mark"
    if isinstance(data, str) and data.lstrip()[:1] in ("{", "[", '"'):
        try:
            return ("json", normal(json.loads(data)))
        except ValueError:
            return data
    return data


PIECES = st.sampled_from(
    [
        *(secret for _, secret in EVERY_SECRET),
        *HARMLESS,
        "\n",
        '"',
        "\\",
        "/",
        " ",
        "é",
        "\u2028",
        "\x00",
        "\x1b",
        "🚢",
        "a",
        "1",
        "-",
        "_",
        ".",
        "@",
        "x" * 250,
    ]
)
TEXTS = st.lists(PIECES, max_size=5).map("".join)
KEYS = TEXTS | st.sampled_from(
    ["SSN", "zip_Code", "api-KEY", "Db Password", "name", "cookie", "tokens", "max_tokens", "größe"]
)
NUMBERS = (
    st.integers(-(10**20), 10**20)
    | st.just(4111111111111111)
    | st.floats(allow_nan=False, allow_infinity=False)
)
DATA = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | TEXTS.map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=3).map(json.dumps)
    ),
    max_leaves=12,
)


@settings(max_examples=600, deadline=None)
@given(DATA, st.sampled_from(["ours", "pythons", "ascii", "indented"]))
def test_the_fast_way_finds_what_the_obvious_way_finds(data: Any, how: str) -> None:
    options: dict[str, Any] = {
        "pythons": {"ensure_ascii": False},
        "ascii": {},
        "indented": {"indent": 2},
    }
    encoded = values.encode(data) if how == "ours" else json.dumps(data, **options[how]).encode()
    redacted = json.loads(ALL.json(encoded, "mlflow.spanInputs"))
    assert same(redacted, slow(json.loads(encoded)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KEYS, TEXTS), min_size=1, max_size=5))
def test_whatever_is_escaped_is_found(pairs: list[tuple[str, str]]) -> None:
    members = [f"{escaped(key)}: {escaped(text)}" for key, text in dict(pairs).items()]
    encoded = ("{" + ", ".join(members) + "}").encode()
    redacted = json.loads(ALL.json(encoded, "mlflow.spanInputs"))
    assert same(redacted, slow(dict(pairs)))


@pytest.mark.parametrize(("preset", "secret"), EVERY_SECRET)
def test_each_preset_finds_its_own(preset: str, secret: str) -> None:
    redactor = Redactor(Redaction(presets=[preset]))
    secrets = [secret] if "hunter22x" not in secret else ["hunter22x"]
    if secret.startswith(("Bearer ", "Authorization")):
        secrets = [secret.rsplit(" ", 1)[1]]
    for text in (
        secret,
        f"so: {secret}, he said",
        f"a\n{secret}\n",
        f'"{secret}"',
        f"ü {secret} 🚢",
    ):
        for value in (text, {"a": [text]}, {"x " + text: 1}, json.dumps({"b": text})):
            encoded = values.encode(value)
            redacted = redactor.json(encoded, "mlflow.spanInputs")
            json.loads(redacted)
            for hidden in secrets:
                assert json.dumps(hidden)[1:-1] not in json.dumps(json.loads(redacted)), redacted
            assert b"[REDACTED:" in redacted


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_stays(text: str) -> None:
    for value in (text, [text, {"a": text}], json.dumps([text])):
        encoded = values.encode(value)
        assert ALL.json(encoded, "mlflow.spanInputs") is encoded


def test_fields_by_their_names_in_any_case_and_depth() -> None:
    value = {
        "SSN": 1,
        "user": {"S_S_N": [1, 2], "Post-Code": {"a": 1}, "name": "Bob", "ssn": None},
        "args": '{"ssn": "1", "kept": [1, 2]}',
        "ssn2": 3,
    }
    redacted = json.loads(ALL.json(values.encode(value), "mlflow.spanInputs"))
    assert redacted == {
        "SSN": "[REDACTED:ssn]",
        "user": {
            "S_S_N": "[REDACTED:ssn]",
            "Post-Code": "[REDACTED:code]",
            "name": "Bob",
            "ssn": None,
        },
        "args": '{"ssn":"[REDACTED:ssn]","kept":[1,2]}',
        "ssn2": 3,
    }


def test_a_name_that_stands_twice_hides_nothing() -> None:
    twice = b'{"ssn":"secret","ssn":null}'
    assert b"secret" not in ALL.json(twice, "mlflow.spanInputs")
    assert b"secret" not in ALL.json(values.encode({"a": twice.decode()}), "mlflow.spanInputs")
    both = values.encode({1: "bob@example.com", "1": None})
    assert b"bob" not in ALL.json(both, "mlflow.spanInputs")


def test_keys_with_secrets_stay_apart() -> None:
    encoded = values.encode({"a@example.com": 1, "b@example.com": 2})
    assert json.loads(ALL.json(encoded, "k")) == {"[REDACTED:email]": 1, "[REDACTED:email] 2": 2}


def test_numbers_that_are_cards() -> None:
    encoded = values.encode({"a": 4111111111111111, "b": 4111111111111112, "c": 1700000000000})
    redacted = json.loads(ALL.json(encoded, "k"))
    assert redacted == {"a": "[REDACTED:card]", "b": 4111111111111112, "c": 1700000000000}


def test_patterns_match_within_strings_only_and_numbers_whole() -> None:
    redactor = Redactor(Redaction(patterns={"ticket": r"^ACME-\d+$", "id": re.compile(r"77\d")}))
    value = ["ACME-1", "see ACME-1", "x771x", 1771, -1771, {"ACME-2": 1}, 1.771]
    redacted = json.loads(redactor.json(values.encode(value), "k"))
    assert redacted == [
        "[REDACTED:ticket]",
        "see ACME-1",
        "x[REDACTED:id]x",
        "[REDACTED:id]",
        "[REDACTED:id]",
        {"[REDACTED:ticket]": 1},
        1.771,
    ]


def test_the_shortest_values_are_looked_into() -> None:
    redactor = Redactor(Redaction(fields=["a"], patterns=["7"]))
    assert redactor.json(b'{"a":1}', "k") == b'{"a":"[REDACTED:a]"}'
    assert redactor.json(b"7", "k") == b'"[REDACTED:pattern]"'
    assert Redactor(Redaction(fields=["a"])).json(b'{"a":1}', "k") == b'{"a":"[REDACTED:a]"}'
    assert Redactor(Redaction(presets=["emails"])).json(b'"a@b.cc"', "k") == b'"[REDACTED:email]"'


def test_what_is_not_touched_stays_as_precise_as_it_was() -> None:
    value = {"big": 10**400, "small": 1e-300, "ssn": "x", "n": -0.0, "u": 2**64}
    redacted = json.loads(ALL.json(values.encode(value), "k"))
    assert redacted == {**value, "ssn": "[REDACTED:ssn]"}


def test_a_function_sees_every_value_with_its_place_before_the_rest() -> None:
    seen: list[tuple[Any, str]] = []

    def function(value: Any, place: str) -> Any:
        seen.append((value, place))
        return {"made": "bob@example.com", "of": value}

    redactor = Redactor(Redaction(function=function, presets=["emails"]))
    redacted = json.loads(redactor.json(b"[1]", "mlflow.spanInputs", "inputs"))
    assert redacted == {"made": "[REDACTED:email]", "of": [1]}
    assert seen == [([1], "inputs")]


class RefusesError(Exception):
    """Raised by functions; its text is a secret too."""


@pytest.mark.parametrize("raised", [RefusesError("hunter22x"), RecursionError(), MemoryError()])
def test_redaction_that_fails_withholds_and_says_so_once(
    raised: Exception, unsaid: None, caplog: pytest.LogCaptureFixture
) -> None:
    def function(value: Any, place: str) -> Any:
        raise raised

    redactor = Redactor(Redaction(function=function))
    assert json.loads(redactor.json(b'"hunter22x"', "k")) == WITHHELD
    assert redactor.text("hunter22x", "k") == WITHHELD
    assert json.loads(redactor.object(b'{"a":"hunter22x"}', "event")) == {"redacted": WITHHELD}
    assert redactor.counts == (0, 3)
    assert len(caplog.records) == 1
    assert "hunter22x" not in caplog.text


@pytest.mark.parametrize("data", [b'"unfinished', b"\xff", b"[" * 2_000 + b"1" + b"]" * 2_000])
def test_what_cannot_be_read_is_withheld(data: bytes) -> None:
    redactor = Redactor(Redaction(patterns=["secret"]))
    assert json.loads(redactor.json(data, "k")) == WITHHELD


def test_json_in_json_in_json_has_an_end() -> None:
    text = "bob@example.com"
    for _ in range(9):
        text = json.dumps([text])
    assert b"bob" not in ALL.json(values.encode(text), "k")


LONG = 300_000


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "unit",
    ["a", "a@", "@a.", "1 ", "111 ", "4111", "eyJ", "eyJ.", "sk-", "password", "password: ", "://:@",
     "bearer ", "-----BEGIN PRIVATE KEY-----", "a.", "@a.1.", "authorization:", "4", "\\", "[", '{"'],
)  # fmt: skip
def test_no_text_takes_more_than_linear_time(preset: str, unit: str) -> None:
    # A quadratic expression would take minutes: the suite's time limit ends it.
    redactor = Redactor(Redaction(presets=[preset]))
    text = (unit * (LONG // len(unit) + 1))[:LONG]
    started = time.process_time()
    for shown in (text, f"@ {text} password= eyJ bearer 4111111111111111"):
        redactor.json(values.encode(shown), "k")
    assert time.process_time() - started < 60


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["presets:nonsense"], "no preset 'nonsense'"),
        (["emails"], "none of presets:"),
        ("pattern:(", "no regular expression"),
        ([r"pattern:\d*"], "matches the empty text"),
        (["field:**"], "needs a name"),
        (3, "must be a spanferry.Redaction"),
        ([3], "none of presets:"),
        ("[1", "JSON list"),
    ],
)
def test_what_is_wrong_is_said(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        redaction_of(given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Redaction(presets="all"),
        lambda: Redaction(presets=["mails"]),
        lambda: Redaction(fields="ssn"),
        lambda: Redaction(fields=[""]),
        lambda: Redaction(patterns="x"),
        lambda: Redaction(patterns=[b"x"]),  # type: ignore[list-item]
        lambda: Redaction(patterns={"a]": "x"}),
        lambda: Redaction(function=3),  # type: ignore[arg-type]
    ],
)
def test_a_redaction_that_cannot_be_used_is_refused(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


def test_words_as_an_environment_variable_has_them() -> None:
    said = redaction_of("presets:emails, field:ssn,pattern:ACME-.")
    assert said == Redaction(
        presets=["emails"], fields=["ssn"], patterns={"pattern": re.compile("ACME-.")}
    )
    listed = redaction_of('["pattern:a{1,2}", "pattern:b"]')
    assert listed is not None
    assert [one.pattern for _, one in listed.named_patterns()] == ["a{1,2}", "b"]
    assert redaction_of("") is None
    whole = Redaction(presets=["emails"])
    assert redaction_of(whole) is whole
    both = redaction_of([whole, "field:ssn"])
    assert both == Redaction(presets=["emails"], fields=["ssn"], patterns={})


def test_a_secret_in_a_long_text_is_found_where_it_is() -> None:
    text = "word " * 50_000 + OPENAI_KEY + " word" * 50_000
    assert OPENAI_KEY.encode() not in ALL.json(values.encode({"a": text}), "k")
