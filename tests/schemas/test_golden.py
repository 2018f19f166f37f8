"""Golden bytes: what version 1 ever wrote is read for ever; the newest of it is what we write.

`python -m tests.schemas.test_golden` writes the files anew; do that only for events that are new.
"""

from pathlib import Path

import pytest

from spanferry_schemas import decode, encode
from tests.schemas.examples import EARLIER, EXAMPLES

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_golden_bytes_decode_for_ever(name):
    assert decode((GOLDEN / f"v1_{name}.bin").read_bytes()) == EXAMPLES[name]


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - EARLIER))
def test_golden_bytes_are_what_is_written(name):
    assert encode(EXAMPLES[name]) == (GOLDEN / f"v1_{name}.bin").read_bytes()


def test_no_golden_file_is_forgotten():
    assert {path.stem for path in GOLDEN.iterdir()} == {f"v1_{name}" for name in EXAMPLES}


if __name__ == "__main__":
    for name, event in EXAMPLES.items():
        path = GOLDEN / f"v1_{name}.bin"
        if not path.exists():
            path.write_bytes(encode(event))
