"""Where figures were measured: the commit of the checkout, and the machine.

It imports nothing of the package, so that what measures imports may use it.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def commit(*changed: str) -> dict[str, Any]:
    """`id` of the checkout's commit and whether `tilus` or one of `changed` was `changed_since`;
    `absent` says why neither is known.

    >>> sorted(commit()) in (["absent"], ["changed_since", "id"])
    True
    """
    git = ("git", "-C", str(ROOT), "--no-optional-locks")
    asked = (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "tilus", *changed))
    try:
        found, status = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout
            for words in asked
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return {"absent": f"git says: {error}"}
    return {"id": found.strip(), "changed_since": bool(status)}


def commit_text(found: dict[str, Any]) -> str:
    """Of a `commit`.

    >>> commit_text({"id": "0123456789abcdef", "changed_since": True})
    '0123456789, with changes'
    """
    if "id" not in found:
        return "not known"
    return found["id"][:10] + (", with changes" if found["changed_since"] else "")


def machine() -> str:
    """The processor and the system."""
    return f"{processor()}, {platform.system()} {platform.release()}"


def processor() -> str:
    """The name of the processor, and how many there are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()
