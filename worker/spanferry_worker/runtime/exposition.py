"""Several processes' metrics as one page: every sample gets the process's number."""

from collections.abc import Iterable

__all__ = ["merge_expositions"]


def merge_expositions(pages: Iterable[tuple[str, str]]) -> str:
    """Prometheus texts with the label `process`, families kept together as the format demands."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for process, text in pages:
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                kind, family, _ = line[2:].split(" ", 2)
                known = heads.setdefault(family, [])
                if not any(head.startswith(f"# {kind} ") for head in known):
                    known.append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, process))
    lines = [line for family, head in heads.items() for line in head + samples.get(family, [])]
    return "\n".join(lines) + "\n"


def _labelled(line: str, process: str) -> str:
    name, _, rest = line.partition(" ")
    if "{" in name:
        name, _, rest = line.partition("{")
        return f'{name}{{process="{process}",{rest}'
    return f'{name}{{process="{process}"}} {rest}'
