"""Git LFS pointers: small text files in place of large files that were not fetched."""

from __future__ import annotations

_MARK = b"version https://git-lfs.github.com/spec/"
SAID = "is a Git LFS pointer, not the file itself"
WAY_OUT = "fetch it with 'git lfs pull'"


def is_pointer(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a pointer (git-lfs docs/spec.md: the version is its first line)."""
    return head.startswith(_MARK)
