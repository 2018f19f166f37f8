"""Runs first in every Python that `spanferry run` leads to; the folder is on PYTHONPATH.

Any Python may come here, also one that is older than ours, and one that has no spanferry. Then it
makes place for the sitecustomize that would have been found without it.
"""

import os
import sys

try:
    import spanferry_start
except ImportError:
    # said by the first one only: tools that an app starts may well be of another Python
    if os.environ.pop("SPANFERRY_STARTED_BY_RUN", None):
        sys.stderr.write(
            "spanferry run: there is no spanferry in %s: what it runs is not traced; "  # noqa: UP031
            "install spanferry there\n" % sys.executable
        )
else:
    spanferry_start.begin()

_here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  pathlib is slow to import
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _here]  # noqa: PTH100
_own = sys.modules.pop("sitecustomize", None)
try:
    __import__("sitecustomize")
except ImportError as _error:
    if _error.name != "sitecustomize":
        raise
finally:
    if _own is not None:
        sys.modules.setdefault("sitecustomize", _own)
