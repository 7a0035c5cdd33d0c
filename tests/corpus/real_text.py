"""Real documents of installed packages: English prose, code, and translations in many scripts."""

from collections.abc import Iterable
from functools import cache

from datatrove.data import Document

from sidewinder.corpus.catalogues import catalogue_documents
from sidewinder.corpus.packages import package_files, read_verified
from sidewinder.corpus.prose import code_documents, prose_documents

PARTS = {"prose": ["networkx"], "code": ["click"], "translations": ["humanize"]}
HOSTS = ["example.com", "news.example.co.uk", "bad.example.org", "example.net"]


@cache
def texts(part: str) -> list[tuple[str, str]]:
    """(file, text) of a part's documents."""
    found = []
    for file in package_files(PARTS[part], part):
        content = read_verified(file)
        if part == "prose":
            documents = prose_documents(file.path, content)
        elif part == "code":
            documents = code_documents(content)
        else:
            documents = catalogue_documents(content.decode("utf-8-sig"))
        found += [(file.name, text) for _, text in documents]
    return found if part == "translations" else found[::4]


def documents(*parts: str) -> list[Document]:
    """Fresh documents of the parts, all of them by default; each has an address."""
    entries = [entry for part in parts or PARTS for entry in texts(part)]
    if not parts:  # One with long lines, too.
        entries.append(("lines", "\n".join(" ".join(text.split()) for _, text in texts("prose")[:9])))
    return [document(text, place, file) for place, (file, text) in enumerate(entries)]


def document(text: str, index: int = 0, file: str = "file") -> Document:
    url = f"https://{HOSTS[index % len(HOSTS)]}/{file}"
    return Document(text=text, id=f"{file}#{index}", metadata={"file": file, "index": index, "url": url})


def kept(found: Iterable[Document]) -> list[tuple[str, str]]:
    return [(entry.id, entry.text) for entry in found]
