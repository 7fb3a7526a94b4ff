"""values.yaml as a tree: keys, their comments (`# --` in the line above) and their defaults."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

_KEY = re.compile(r"^( *)([A-Za-z0-9_]+):(.*)$")
_COMMENT = re.compile(r"^ *# -- (.+)$")


@dataclass
class Value:
    """A key. A map whose keys have no comments is one value."""

    path: tuple[str, ...]
    comment: str
    default: Any
    keys: list["Value"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def leaves(self) -> Iterator["Value"]:
        """All that can be set below this key, in the file's order."""
        if not self.keys:
            yield self
        for key in self.keys:
            yield from key.leaves()


def read(text: str) -> Value:
    """The root. Raises for a key that can be set and has no comment, and for a comment that belongs to no key."""
    root = Value((), "", yaml.safe_load(text))
    stack: list[tuple[int, Value]] = [(-1, root)]
    comment = ""
    for number, line in enumerate(text.splitlines(), 1):
        if found := _COMMENT.match(line):
            comment = found[1]
        elif found := _KEY.match(line):
            while stack[-1][0] >= len(found[1]):
                stack.pop()
            above = stack[-1][1]
            value = Value((*above.path, found[2]), comment, above.default[found[2]])
            above.keys.append(value)
            stack.append((len(found[1]), value))
            comment = ""
        elif comment:
            raise ValueError(f"values.yaml:{number}: the comment above belongs to no key")
    _close(root)
    bare = [leaf.name for leaf in root.leaves() if not leaf.comment]
    if bare:
        raise ValueError(f"values.yaml: no comment above {', '.join(bare)}")
    return root


def _close(value: Value) -> bool:
    """Make one value of each map whose keys have no comments. Whether there is a comment at or below this one."""
    below = [_close(key) for key in value.keys]
    if value.comment and not any(below):
        value.keys = []
    return bool(value.comment) or any(below)
