"""docs/wire.md tells the truth: its example decodes, its tables are the structs' fields."""

import re
from pathlib import Path

import pytest

from spanferry_schemas import (
    Assessment,
    Attachment,
    Chunk,
    End,
    Fragment,
    RecordMeta,
    RejectReason,
    Span,
    StatusCode,
    TracePart,
    decode,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()


def test_the_example_is_what_it_says():
    block = DOCUMENT.split("```text\n")[1].split("```")[0]
    digits = "".join(re.split(r" {2,}(?=\S*[^\s0-9a-f])", line)[0] for line in block.splitlines())
    assert decode(bytes.fromhex(digits)) == Fragment(
        trace_id=bytes(range(16)),
        spans=[
            Span(
                span_id=b"\x01" * 8,
                parent_id=None,
                name="answer",
                span_type="AGENT",
                start_ns=1_700_000_000_000_000_000,
                end_ns=1_700_000_000_250_000_000,
                status=StatusCode.OK,
                attributes={"mlflow.spanInputs": b'"hi"'},
            )
        ],
        trace=TracePart(experiment="chat"),
        end=End(1),
    )


@pytest.mark.parametrize(
    ("heading", "struct", "tagged"),
    [
        ("### Fragment, tag 1", Fragment, True),
        ("**span**", Span, False),
        ("**trace part**", TracePart, False),
        ("**end**", End, False),
        ("**attachment**", Attachment, False),
        ("### Chunk, tag 2", Chunk, True),
        ("### Assessment, tag 3", Assessment, True),
        ("## The header", RecordMeta, False),
    ],
)
def test_a_table_has_every_field_in_its_place(heading, struct, tagged):
    section = DOCUMENT[DOCUMENT.index(heading) :]
    table = re.search(r"(\|.*\n)+", section)
    assert table is not None
    rows = [row for row in table[0].splitlines() if re.match(r"\| \d", row)]
    named = [row.split("|")[2].strip() for row in rows][1 if tagged else 0 :]
    assert len(named) == len(struct.__struct_fields__)
    for told, field in zip(named, struct.__struct_fields__, strict=True):
        words = field.removesuffix("_ns").replace("_", " ").removeprefix("span ").split()
        assert words[-1].rstrip("s") in told or told in field, (told, field)


def test_every_reason_is_listed():
    assert all(f"`{reason}`" in DOCUMENT for reason in RejectReason)
