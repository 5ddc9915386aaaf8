"""The documents as the tests read them: blocks of code, headings, links and tables of each page.

A block that no test can run has a comment before it that says why: `<!-- not run: it needs a PgBouncer -->`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Their examples are run.
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
# Their links and names are checked.
DOCUMENTS = [*PAGES, *(path for path in sorted(ROOT.glob("*.md")) if path not in PAGES)]

_FENCE = re.compile(r"\s*(```+|~~~+)\s*(\w*)")
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_HEADING = re.compile(r"(#+) (.+)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code: its language, the line of the file in which its code begins, why it is not run if it is not."""

    page: Path
    language: str
    line: int
    code: str
    why_not: str = ""

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The blocks of a page in their order, all of them or those in one language."""
    return [block for block in _blocks(page) if language in (None, block.language)]


def prose(page: Path) -> str:
    """The page without its blocks of code; lines keep their numbers."""
    lines = page.read_text("utf-8").splitlines()
    for block in _blocks(page):
        end = block.line - 1 + len(block.code.splitlines())
        lines[block.line - 2 : end + 1] = [""] * (end + 3 - block.line)
    return "\n".join(lines)


def anchors(page: Path) -> set[str]:
    """What may stand behind # in a link to this page, as GitHub makes it of the headings."""
    found: set[str] = set()
    for line in prose(page).splitlines():
        if heading := _HEADING.fullmatch(line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[2])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
            assert slug not in found, f"{name_of(page)} has two headings {heading[2]!r}"
            found.add(slug)
    return found


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead to, addresses in the net left out."""
    found: list[str] = _LINK.findall(re.sub(r"`[^`]*`", "", prose(page)))
    return [link for link in found if not re.match(r"https?:|mailto:", link)]


def code_spans(page: Path) -> list[str]:
    """What stands between backticks in a page's prose."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    under = prose(page).partition(f"\n{heading}\n")[2]
    assert under, f"{name_of(page)} has no heading {heading!r}"
    table: list[list[str]] = []
    for line in under.splitlines():
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def _blocks(page: Path) -> Iterator[Block]:
    fence, language, begin, why_not = "", "", 0, ""
    code: list[str] = []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if fence and line.strip() == fence:
            yield Block(page, language, begin, "".join(code), why_not)
            fence, why_not = "", ""
        elif fence:
            code.append(line + "\n")
        elif found := _FENCE.match(line):
            fence, language = found.groups()
            begin, code = number + 1, []
        elif line.strip():
            comment = _NOT_RUN.fullmatch(line.strip())
            why_not = comment[1] if comment else ""
    assert not fence, f"{name_of(page)}: the block of line {begin} does not end"
