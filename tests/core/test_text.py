"""Text in pieces: surrogate pairs, suffixes and stop sequences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bailian_apps.core.text import StopFilter, SurrogateBuffer, new_suffix, repair_surrogates

# Any text, surrogate halves included.
TEXTS = st.text(st.characters(codec=None) | st.sampled_from("\ud83d\ude00"), max_size=12)


@given(st.lists(TEXTS, max_size=6))
def test_the_pieces_of_a_buffer_are_the_repaired_text(pieces: list[str]) -> None:
    buffer = SurrogateBuffer()
    returned = [buffer.push(piece) for piece in pieces] + [buffer.push("", last=True)]
    assert "".join(returned) == repair_surrogates("".join(pieces))
    for each in returned:
        each.encode()  # no half is left


def test_a_reset_buffer_forgets_the_half_it_keeps() -> None:
    buffer = SurrogateBuffer()
    assert buffer.push("a\ud83d") == "a"
    buffer.reset()
    assert buffer.push("b", last=True) == "b"


def test_a_suffix_is_read_from_a_snapshot_or_a_delta() -> None:
    assert new_suffix(["ab", "c"], "abcd") == "d"
    assert new_suffix(["ab"], "ab") == ""
    assert new_suffix(["ab"], "x") == "x"
    assert new_suffix(["ab"], "cde") == "cde"
    assert new_suffix([], "ab") == "ab"


def cut(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    stop_filter = StopFilter(stops)
    text = ""
    for piece in pieces:
        text += stop_filter.feed(piece)
        if stop_filter.found:
            return text, True
    return text + stop_filter.flush(), False


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """The first moment at which the text so far holds a stop sequence decides."""
    for end in range(len(text) + 1):
        found = [at for stop in stops if (at := text[:end].find(stop)) >= 0]
        if found:
            return text[: min(found)], True
    return text, False


@given(st.text("ab.", max_size=12), st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3))
def test_a_text_is_cut_at_the_first_stop_sequence(text: str, stops: list[str]) -> None:
    assert cut(list(text), stops) == expected(text, stops)


@given(st.lists(st.text("ab.", max_size=4)), st.text("ab.", min_size=1, max_size=4))
def test_the_cut_does_not_depend_on_the_pieces(pieces: list[str], stop: str) -> None:
    text = "".join(pieces)
    assert cut(pieces, [stop]) == (text.partition(stop)[0], stop in text)


@given(st.lists(st.text("ab.", max_size=4)), st.lists(st.text("ab.", min_size=1, max_size=4)))
def test_no_returned_text_holds_a_stop_sequence(pieces: list[str], stops: list[str]) -> None:
    stop_filter = StopFilter(stops)
    returned = ""
    for piece in pieces:
        returned += stop_filter.feed(piece)
        assert not any(stop in returned for stop in stops)
        if stop_filter.found:
            return


def test_halves_side_by_side_are_one_character_and_a_lone_one_is_marked() -> None:
    assert repair_surrogates("a\ud83d\ude00b\ud83d") == "a😀b\ufffd"
    buffer = SurrogateBuffer()
    assert [buffer.push("好\ud83d"), buffer.push("\ude00x"), buffer.push("y")] == ["好", "😀x", "y"]
    assert [buffer.push("\ude00z"), buffer.push("\ud83d", last=True)] == ["\ufffdz", "\ufffd"]
