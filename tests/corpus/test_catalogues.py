"""gettext catalogues, compared with what the standard library reads from the compiled catalogue beside each."""

import gettext
from importlib import metadata
from pathlib import PurePosixPath

import pytest

from sidewinder.corpus.catalogues import DOCUMENT_CHARACTERS, catalogue_documents, translations

CATALOGUE = r"""
msgid ""
msgstr ""
"Language: de\n"

#: a.py:1
msgid "yes"
msgstr "ja"

#, fuzzy
msgid "no"
msgstr "nicht sicher"

#, python-format
msgctxt "files"
msgid "one file"
msgid_plural "%d files"
msgstr[0] "eine Datei"
msgstr[1] "%d Dateien"
msgid "directly after"
msgstr ""
"über "
"zwei \"Zeilen\"\n"

msgid "same"
msgstr "same"

msgid "untranslated"
msgstr ""

msgid "{}th"
msgstr "{}."

#~ msgid "old"
#~ msgstr "alt"
"""


def test_only_good_translations_are_kept() -> None:
    assert list(translations(CATALOGUE)) == ["ja", "eine Datei", "%d Dateien", 'über zwei "Zeilen"\n']


@pytest.mark.parametrize("language", ["de_DE", "ar", "ja_JP", "pt_BR", "ru_RU"])
def test_equal_to_the_compiled_catalogue(language: str) -> None:
    place = PurePosixPath("humanize/locale", language, "LC_MESSAGES/humanize.po")
    distribution = metadata.distribution("humanize")
    source = distribution.locate_file(place)
    compiled = distribution.locate_file(place.with_suffix(".mo"))
    with compiled.open("rb") as stream:
        catalogue = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
    texts = {key if isinstance(key, str) else key[0]: value for key, value in catalogue.items()}
    expected = {value for key, value in texts.items() if key and value != key and any(map(str.isalpha, value))}
    found = set(translations(source.read_text()))
    assert found
    assert found <= set(catalogue.values())
    assert len(found - expected) <= len(catalogue) - len(texts)


def test_a_document_has_one_string_a_line() -> None:
    ((_, text),) = catalogue_documents(CATALOGUE)
    assert text.splitlines()[:3] == ["ja", "eine Datei", "%d Dateien"]


def test_a_long_catalogue_becomes_several_documents_with_every_string_once() -> None:
    catalogue = "".join(f'msgid "text {n}"\nmsgstr "Satz Nummer {n}, nicht zu kurz"\n\n' for n in range(1_000))
    documents = [text for _, text in catalogue_documents(catalogue)]
    assert len(documents) > 5
    assert all(DOCUMENT_CHARACTERS <= len(text) + 1 < DOCUMENT_CHARACTERS + 40 for text in documents[:-1])
    assert "\n".join(documents).splitlines() == list(translations(catalogue))
