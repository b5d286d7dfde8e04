"""How an error reads, and how it comes by its place."""

from __future__ import annotations

import pytest

from tilus.errors import Location, TilusError, locate

LINE = "        c = self.dot(a, b)"
PLACE = Location("kernel.py", 12, 12, 26, LINE)


def rendered(error: TilusError) -> list[str]:
    return str(error).splitlines()


def test_every_part():
    error = TilusError(
        "operands of dot do not match",
        found="a is float16[16, 32], b is float16[16, 8]",
        expected="the last extent of a equals the first of b",
        hint="transpose b",
        location=PLACE,
        related=((Location("kernel.py", 3, 0, 1, "b = load()"), "b comes from here"),),
    )
    assert rendered(error) == [
        "kernel.py:12:13: error: operands of dot do not match",
        "   12 |         c = self.dot(a, b)",
        "      |             ^^^^^^^^^^^^^^",
        "  found:    a is float16[16, 32], b is float16[16, 8]",
        "  expected: the last extent of a equals the first of b",
        "  hint:     transpose b",
        "kernel.py:3:1: note: b comes from here",
        "    3 | b = load()",
        "      | ^",
    ]


def test_message_alone():
    assert ["error: no"] == rendered(TilusError("no"))


def test_a_place_without_source_has_no_snippet():
    error = TilusError("no", location=Location("not_on_disk.py", 7))
    assert ["not_on_disk.py:7:1: error: no"] == rendered(error)


def test_the_source_line_is_read_from_disk(tmp_path):
    file = tmp_path / "program.py"
    file.write_text("first\nsecond line\n")
    error = TilusError("no", location=Location(str(file), 2, 7, 11))
    assert rendered(error)[1:] == ["    2 | second line", "      |        ^^^^"]


@pytest.mark.parametrize(
    ("end", "carets"),
    [
        (None, "^"),  # no end: one column
        (13, "^"),
        (12, "^"),  # empty span: still visible
        (500, "^" * 14),  # a span over several lines stops at the end of the first
    ],
)
def test_the_caret_stays_on_the_line(end, carets):
    error = TilusError("no", location=Location("kernel.py", 12, 12, end, LINE))
    assert f"      | {' ' * 12}{carets}" == rendered(error)[2]


def test_locate_gives_the_place():
    with pytest.raises(TilusError) as caught, locate(PLACE):
        raise TilusError("no")
    assert PLACE is caught.value.location


def test_the_most_precise_place_wins():
    outer = Location("kernel.py", 1)
    with pytest.raises(TilusError) as caught, locate(outer), locate(PLACE):
        raise TilusError("no")
    assert PLACE is caught.value.location


def test_locate_without_a_place_leaves_it_open():
    with pytest.raises(TilusError) as caught, locate(PLACE), locate(None):
        raise TilusError("no")
    assert PLACE is caught.value.location


def test_locate_leaves_other_exceptions_alone():
    with pytest.raises(KeyError, match="k"), locate(PLACE):
        raise KeyError("k")


def test_subclasses_render_alike():
    class LayoutError(TilusError):
        pass

    assert ["error: no", "  hint:     yes"] == rendered(LayoutError("no", hint="yes"))
