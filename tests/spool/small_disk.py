"""A program with a small disk of its own: `python -m tests.spool.small_disk FOLDER BYTES MODULE ...`.

A tmpfs in a mount namespace, which the kernel takes away with the last process in it; nobody else
sees it. As root that needs the right to mount, as anybody else a user namespace.
"""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["check"]

REMEDY = """\
No file system could be mounted in a namespace of its own, which this test needs: {said}
As root in a container: docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined.
As a user: allow user namespaces (sysctl user.max_user_namespaces=10000, and where they exist
kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0).
The programs unshare and mount come with util-linux."""

_PRIVATE = ["unshare", "--mount", "--propagation", "private"]
_AS_ROOT_THERE = ["--user", "--map-root-user"]
_MOUNT = 'mount -t tmpfs -o mode=700,size="$1" tmpfs "$0" && shift && exec "$@"'


def _words(folder: str, size: str, command: list[str]) -> list[str]:
    """The command with its disk, in a way that works here. Raises RuntimeError where none does."""
    said = ""
    for namespace in ([], _AS_ROOT_THERE) if os.geteuid() == 0 else (_AS_ROOT_THERE,):
        words = [*_PRIVATE, *namespace, "sh", "-c", _MOUNT, folder, size]
        try:
            tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
        except OSError as error:
            said = f"{said} {error}"
        else:
            if tried.returncode == 0:
                return [*words, *command]
            said = f"{said} {tried.stderr.strip()}"
    raise RuntimeError(REMEDY.format(said=said.strip()))


def check(folder: Path) -> None:
    """Raise RuntimeError, which says what to do, where there can be no such disk."""
    _words(str(folder), "65536", [])


def main(folder: str, size: str, *module: str) -> None:
    """Become that program."""
    words = _words(folder, size, [sys.executable, "-m", *module])
    os.execvp(words[0], words)


if __name__ == "__main__":
    main(*sys.argv[1:])
