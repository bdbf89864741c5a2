"""Docstrings as gvae writes them, turned into reStructuredText.

They are plain text, made for `help()`: prose in paragraphs, `names` between single backticks, fields as "name : text"
(several may share a line, three blanks apart), bullets, aligned columns, and examples, which are indented. Here prose is
escaped, so that no sign in it is read as markup; fields become field lists, examples code, aligned columns stay as they are.
"""

from __future__ import annotations

import ast
import inspect
import re

__all__ = ["ERRORS", "LINKS", "escaped", "is_field", "prose", "restructured", "split_fields"]

_FIELD = re.compile(r"^(?P<name>[A-Za-z_*][\w.*]*(?:(?:,| /) [\w.*]+)*) *\s: (?P<text>\S.*)$")
_COLUMNS = re.compile(r"\S {2,}\S")
_SIGNS = re.compile(r"([\\*|`_])")

LINKS: dict[str, str] = {}  # what a literal names -> the object's full name
ERRORS: dict[str, str] = {}  # those that are linked wherever they are named


def escaped(text: str) -> str:
    return _SIGNS.sub(r"\\\1", text)


def prose(text: str) -> str:
    """Escaped; what stands between single or double backticks is a literal."""
    out = []
    for piece in re.split(r"(``[^`]+``|`[^`]+`)", text):
        literal = " ".join(piece.strip("`").split())  # between escaped blanks, which let any sign stand beside it
        if piece.startswith("`") and piece.endswith("`") and literal:
            target = LINKS.get(literal.removesuffix("()"))
            out.append(f"\\ :py:obj:`{literal} <{target}>`\\ " if target else f"\\ ``{literal}``\\ ")
        else:
            out.append(re.sub(r"\b[A-Z]\w+Error\b", _linked, escaped(piece)))
    return "".join(out)


def _linked(match: re.Match) -> str:
    target = ERRORS.get(match[0])
    return f"\\ :py:exc:`{match[0]} <{target}>`\\ " if target else match[0]


def is_field(text: str) -> bool:
    return _FIELD.match(text) is not None


def split_fields(line: str) -> list[str]:
    """The fields and remarks that share a line, three blanks or more apart."""
    pieces = re.split(r" {3,}", line)
    joined: list[str] = []
    for piece in pieces:
        if joined and not (_FIELD.match(piece) or re.match(r"(Returns|Raises)\b", piece)):
            joined[-1] += "   " + piece
        else:
            joined.append(piece)
    return joined


def _is_code(block: list[str]) -> bool:
    text = inspect.cleandoc("\n".join(block))
    if text.startswith(">>>"):
        return True
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.Assign | ast.Import | ast.ImportFrom) for node in ast.walk(tree))


def _indent(lines: list[str]) -> int:
    return min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)


def _literal(block: list[str], language: str) -> list[str]:
    cut = _indent(block)
    return [f".. code-block:: {language}", "", *("    " + line[cut:] if line.strip() else "" for line in block), ""]


def _paragraphs(lines: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


def _fields(block: list[str]) -> list[str]:
    """A paragraph with fields: each with the lines below it that are indented; what else it says, as prose around them."""
    out: list[str] = []
    kind, name, text = "", "", []

    def close() -> None:
        if kind == "field":
            out.append(f":{escaped(name)}: {prose(' '.join(text))}")
        elif kind == "prose":
            out.extend(["", prose(" ".join(text)), ""])

    for line in block:
        inside = line.startswith(" ")
        if inside and kind and not _FIELD.match(line.strip()):
            text.append(line.strip())
            continue
        for piece in split_fields(line.strip()):
            match = _FIELD.match(piece)
            if match:
                close()
                kind, name, text = "field", match["name"], [match["text"]]
            elif kind == "prose" and not re.match(r"(Returns|Raises)\b", piece):
                text.append(piece)
            else:
                close()
                kind, name, text = "prose", "", [piece]
    close()
    return [*out, ""]


LISTED = ("Parameters", "Other Parameters", "Attributes", "Returns", "Yields", "Raises", "Warns")


def _sections(lines: list[str]) -> list[tuple[str, list[str]]]:
    """numpydoc's sections, (title, lines); what comes before the first has no title."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for i, line in enumerate(lines):
        if i and re.fullmatch(r"-{3,}", line) and lines[i - 1].strip():
            title = found[-1][1].pop()
            found.append((title.strip(), []))
        else:
            found[-1][1].append(line)
    return found


def _entries(lines: list[str]) -> list[str]:
    """A section's entries, "name : type" or a type alone, each with its explanation indented below it."""
    out: list[str] = []
    for block in _paragraphs(lines):
        for line in block:
            if line.startswith(" "):
                out.append("    " + prose(line.strip()))
            elif re.fullmatch(r"\*[\w ]+\*", line):  # a group of settings
                out += ["", f"**{line[1:-1].capitalize()}**", ""]
            else:
                name, colon, kind = line.partition(" : ")
                out += ["", (f"``{name}`` : " if colon else "") + prose(kind if colon else name)]
        out.append("")
    return out


def _bullets(block: list[str]) -> list[str]:
    out: list[str] = []
    for line in block:
        if line.startswith("- "):
            out.append("- " + prose(line[2:]))
        elif line.startswith(" ") and out:
            out.append("  " + prose(line.strip()))
        else:
            out += ["", prose(line)] if out and out[-1] != "" and out[-1].startswith(("-", " ")) else [prose(line)]
    return [*out, ""]


def restructured(docstring: str | None) -> list[str]:
    """The docstring's lines as reStructuredText."""
    if not docstring:
        return []
    out: list[str] = []
    for title, lines in _sections(inspect.cleandoc(docstring).splitlines()):
        if title:
            out += [f".. rubric:: {title}", ""]
        out += _entries(lines) if title in LISTED or title.startswith("Parameters") else _text(lines)
    return out


def _text(lines: list[str]) -> list[str]:
    """What is in no list: prose, examples, bullets, aligned columns, and fields as internal docstrings have them."""
    out: list[str] = []
    for block in _paragraphs(lines):
        if block[0].startswith(">>>"):
            out += _literal(block, "python")
        elif _indent(block) >= 2 and not any(line.lstrip().startswith("- ") for line in block):
            if all(_FIELD.match(line.strip()) for line in block if len(line) - len(line.lstrip()) == _indent(block)):
                cut = _indent(block)
                out += _fields([line[cut:] for line in block])
            else:
                out += _literal(block, "python" if _is_code(block) else "text")
        elif any(_FIELD.match(piece) for line in block for piece in split_fields(line)):
            out += _fields(block)
        elif _is_code(block):
            out += _literal(block, "python")
        elif any(line.startswith("- ") for line in block):
            out += _bullets(block)
        elif sum(bool(_COLUMNS.search(line)) for line in block) * 2 > len(block):
            out += _literal(block, "text")
        else:
            text: list[str] = []
            for line in block:  # an example may follow its sentence without a blank line
                if line.startswith("    ") and text and not text[-1].startswith(" "):
                    text.append(line)
                elif re.match(r"Raises\b", line) and text and text[-1].rstrip().endswith((".", ")")):
                    out += [prose("\n".join(text)), ""]
                    text = [line]
                else:
                    text.append(line)
            head = [line for line in text if not line.startswith("    ")]
            code = [line for line in text if line.startswith("    ")]
            if code and text == head + code:
                out += [*prose("\n".join(head)).splitlines(), "", *_literal(code, "python" if _is_code(code) else "text")]
            else:
                out += [*prose("\n".join(line.strip() for line in text)).splitlines(), ""]
    return out
