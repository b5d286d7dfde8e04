"""Sections of README.md that programs write, each between two markers of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tilus.errors import TilusError

README = Path(__file__).parent.parent / "README.md"
NEXT_SECTION = "## Reading on"


@dataclass(frozen=True)
class Section:
    """A section whose end is written.

    Attributes:
        name: of its markers.
        head: its title and what stands before the first marker.
    """

    name: str
    head: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}:begin -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name}:end -->"

    def filled(self, readme: str, text: str) -> str:
        """A README with the text between the markers; the section is made where there is none.

        Raises: TilusError for a README with one of the markers.

        >>> section = Section("gpu", "## On a GPU")
        >>> print(section.filled("# Title", "no results"))
        # Title
        <BLANKLINE>
        ## On a GPU
        <BLANKLINE>
        <!-- gpu:begin -->
        no results
        <!-- gpu:end -->
        <BLANKLINE>
        <BLANKLINE>
        """
        begin, end = self.begin, self.end
        if (begin in readme) != (end in readme):
            raise TilusError("the README has one of two markers", expected=f"{begin} and {end}")
        if begin not in readme:
            made = f"{self.head}\n\n{begin}\n{end}\n\n"
            before, found, after = readme.partition(NEXT_SECTION)
            readme = f"{before}{made}{found}{after}" if found else f"{before.rstrip()}\n\n{made}"
        before, _, rest = readme.partition(begin)
        _, _, after = rest.partition(end)
        return f"{before}{begin}\n{text}\n{end}{after}"
