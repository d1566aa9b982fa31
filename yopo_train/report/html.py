"""The page: one file with everything in it, that opens without network and needs no script."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape as escape_html

from yopo_train.report.facts import printable
from yopo_train.summary import Table

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f5f7; color: #222; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.7em; margin: .2em 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2em; margin: 0 0 .3em; }
section, .facts { background: #fff; border-radius: 10px; padding: 18px 22px; margin: 18px 0;
  box-shadow: 0 1px 3px rgba(0, 0, 0, .09); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }
.card { background: #fff; border-radius: 10px; padding: 10px 18px; flex: 1 1 140px;
  box-shadow: 0 1px 3px rgba(0, 0, 0, .09); }
.card b { display: block; font-size: 1.5em; color: #0072B2; white-space: nowrap; }
.card span { color: #555; font-size: .88em; }
nav { font-size: .92em; line-height: 1.9; } nav a { margin-right: 1.1em; white-space: nowrap; }
a { color: #0072B2; }
img { max-width: 100%; height: auto; display: block; margin: 8px auto; }
p { margin: .3em 0 .7em; } .missing { color: #8a4b00; } .note { color: #555; font-size: .88em; }
code { background: #eef1f4; padding: 1px 5px; border-radius: 4px; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92em; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid #eceef0; white-space: pre; }
th:first-child, td:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; font-size: .94em; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { background: #fff; } section, .facts, .card { box-shadow: none; break-inside: avoid; } }
"""


@dataclass
class Block:
    """One section of the page.

    Parameters
    ----------
    name
        Its anchor, and the name of its plot's file.
    title
        Its heading.
    about
        How to read it; plain text.
    picture
        A PNG file; None where there is none.
    tables
        Shown under the picture.
    missing
        Why there is no picture, and the command that makes what it needs.
    notes
        Small print.
    """

    name: str
    title: str
    about: str = ""
    picture: bytes | None = None
    tables: list[Table] = field(default_factory=list)
    missing: tuple[str, str] | None = None
    notes: list[str] = field(default_factory=list)


def page(
    title: str, cards: Sequence[tuple[str, str]], facts: Sequence[tuple[str, str]], blocks: Sequence[Block]
) -> str:
    """The whole file. Nothing that is passed in may contain HTML: everything is escaped.

    Parameters
    ----------
    title
        The run's name.
    cards
        The few numbers that matter: value and what it is.
    facts
        Where everything comes from: name and value.
    blocks
        The sections, in order.
    """
    shown = "".join(
        f"<div class='card'><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in cards
    )
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    links = "\n".join(f"<a href='#{escape(block.name)}'>{escape(block.title)}</a>" for block in blocks)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} - yopo_train report</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<p class="note">yopo_train report</p>
<h1>{escape(title)}</h1>
<div class="cards">{shown}</div>
<nav>{links}</nav>
{"".join(map(_section, blocks))}
<div class="facts"><h2>Where this comes from</h2><dl>{rows}</dl></div>
</main>
</body>
</html>
"""


def escape(text: str) -> str:
    """Text as HTML, in attributes too; what UTF-8 cannot hold (parts of odd file names) is a question mark."""
    return escape_html(printable(text).encode("utf-8", "replace").decode())


def _section(block: Block) -> str:
    parts = [f"<h2>{escape(block.title)}</h2>"]
    if block.about:
        parts.append(f"<p>{escape(block.about)}</p>")
    if block.missing is not None:
        reason, command = block.missing
        parts.append(f"<p class='missing'>Left out: {escape(reason)}. Made by <code>{escape(command)}</code></p>")
    if block.picture is not None:
        data = base64.b64encode(block.picture).decode()
        parts.append(f"<img alt='{escape(block.title)}' src='data:image/png;base64,{data}'>")
    parts += [_table(table) for table in block.tables]
    parts += [f"<p class='note'>{escape(note)}</p>" for note in block.notes]
    return f"<section id='{escape(block.name)}'>\n" + "\n".join(parts) + "\n</section>\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.headers)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
