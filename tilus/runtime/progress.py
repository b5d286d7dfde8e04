"""The bar that shows how far a long piece of work is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bar(wanted: bool) -> Progress:
    """On standard error, and only where somebody watches."""
    from rich.console import Console  # not imported with `tilus`: that takes a while
    from rich.progress import Progress

    console = Console(stderr=True)
    watched = console.is_terminal or console.is_jupyter
    return Progress(console=console, disable=not (wanted and watched), transient=True)
