"""Every `Source:` in a docstring or comment leads somewhere: to a key of docs/methods.md, or to a publication."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
FILES = [*ROOT.glob("hpa_tf/**/*.py"), *ROOT.glob("tfrecords_builder/*.py"), *ROOT.glob("benchmarks/*.py")]
KEY = re.compile(r"\b(METHODS|SYSTEMS|HPA_SEGMENTATOR) (\d)")
NOTE = re.compile(r"(?<![\w.])([SW]) (\d)")
PUBLISHED = re.compile(
    r"\b(19|20)\d\d\b|\bours\b|\bmeasured\b|\bchosen\b|\bpublic code\b|\bChris Wellons\b", re.IGNORECASE
)
NOTES = {"S": range(1, 6), "W": range(1, 9)}


def sources() -> list[tuple[str, str]]:
    """Return (place, text) of each source: up to the end of its paragraph."""
    found = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"\bSource: (.*?)(?=\n\s*\n|\"\"\"|$)", text, flags=re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            found.append((f"{path.relative_to(ROOT)}:{line}", " ".join(match[1].split())))
    return found


def test_there_are_sources():
    assert len(sources()) > 40


@pytest.mark.parametrize(("place", "text"), sources(), ids=lambda value: str(value)[:40])
def test_source_leads_somewhere(place, text):
    keys = KEY.findall(text)
    notes = NOTE.findall(text)
    assert keys or notes or PUBLISHED.search(text), f"{place}: {text}"
    for document, section in keys:
        assert f"\n## {document} {section}:" in METHODS, f"{place}: {document} {section} is not in docs/methods.md"
    for kind, number in notes:
        assert int(number) in NOTES[kind], f"{place}: there is no {kind} {number}"


def test_named_parts_of_team_4_stand_in_the_page():
    parts = {word for _, text in sources() for word in re.findall(r"METHODS 3 \(([^)]*)\)", text)}
    for part in (name.strip() for group in parts for name in re.split("[,;]", group)):
        assert part.lower() in METHODS.lower(), part
