"""The phone-book text: what training sees and evaluation asks must be the same characters."""

import random

import pytest

from sidewinder.corpus import phonebook_text as text


def test_entries_are_distinct_and_have_exactly_the_digits_asked_for() -> None:
    book = text.entries(random.Random("a"), 200, 4)
    assert len({entry.name for entry in book}) == 200
    assert all(len(entry.number) == 4 and entry.number.isdigit() for entry in book)
    assert all(" " not in entry.name for entry in book)


def test_long_books_use_last_names_and_stay_distinct() -> None:
    book = text.entries(random.Random("a"), 5000, 7)
    assert len({entry.name for entry in book}) == 5000
    assert all(" " in entry.name for entry in book)


def test_same_seed_same_book() -> None:
    assert text.entries(random.Random("s"), 12, 4) == text.entries(random.Random("s"), 12, 4)
    assert text.entries(random.Random("s"), 12, 4) != text.entries(random.Random("t"), 12, 4)


def test_too_long_a_book_is_refused() -> None:
    with pytest.raises(ValueError, match="more names"):
        text.entries(random.Random("a"), 10**7, 4)


def test_documents_have_the_written_format() -> None:
    maria, paul = text.Entry("Maria", "4071"), text.Entry("Paul", "9302")
    book = [maria, paul]
    assert text.standard_document(book, [paul, maria]) == "Maria: 4071\nPaul: 9302\n\nPaul: 9302\nMaria: 4071\n"
    assert text.reversed_document(book, paul) == "Find Paul.\nMaria: 4071\nPaul: 9302\n\nPaul: 9302\n"
