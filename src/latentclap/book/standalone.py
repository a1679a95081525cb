"""A page by itself, beside its sound files: no book around it, no server, no network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from latentclap.files import write_text

STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5; }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
body > p { max-width: 46rem; }
table { border-collapse: collapse; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top; }
tr + tr { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
audio { display: block; width: 100%; max-width: 260px; height: 40px; }
audio::-webkit-media-controls-mute-button, audio::-webkit-media-controls-volume-control-container { display: none; }
img { display: block; width: 100%; max-width: 260px; height: auto; margin-top: .3rem; border-radius: 3px; }
.lc-picture { display: block; cursor: pointer; }
.figure { display: block; overflow-x: auto; cursor: zoom-in; }
.figure img { width: 44rem; max-width: none; margin: 0; }
.numbers { overflow-x: auto; margin: 1rem 0; }
.numbers thead th + th { text-align: right; }
.numbers th, .numbers td { white-space: nowrap; }
.numbers td { text-align: right; font-variant-numeric: tabular-nums; }
.lc-caption, .lc-note { font-size: .8rem; opacity: .75; }
.lc-caption { overflow-wrap: anywhere; max-width: 260px; }
.lc-grid, .lc-grid tbody { display: block; }
.lc-grid thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.lc-row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 11rem), 1fr)); column-gap: .6rem;
  padding: .5rem 0; counter-reset: place; }
.lc-row th, .lc-row td { display: block; min-width: 0; padding: .2rem 0; }
.lc-row th { grid-column: 1 / -1; overflow-wrap: anywhere; }
.lc-row td { counter-increment: place; }
.lc-row td::before { content: counter(place) " \\00b7  " attr(data-column); display: block; font-size: .85rem; }
@media (hover: none) { .lc-row td::before { content: attr(data-column); } }
"""
#: one player pauses the others; a click on a picture plays from there; the number keys play the clips of the row that
#: was heard last; a player that gets no sound takes a copy: Safari plays nothing from a server that gives whole files
#: only, as Python's does, and WebKitGTK's players stand still now and then where they begin within a file
SCRIPT = """
const players = [...document.querySelectorAll("audio")];
let row = document.querySelector("tr.lc-row");
players.forEach(player => player.addEventListener("play", () => {
  row = player.closest("tr.lc-row");
  players.forEach(other => { if (other !== player) other.pause(); });
}));
const begun = new WeakMap();
const begin = (player, seconds) => {
  begun.set(player, seconds);
  player.currentTime = seconds;
  player.play().catch(() => {});
  setTimeout(() => {
    if (begun.get(player) === seconds && !player.paused && player.currentTime <= seconds) takeCopy(player);
  }, 1500);
};
const takeCopy = async player => {
  if (!/^https?:/.test(player.currentSrc)) return;
  const paused = player.paused; // an error pauses it next
  const answer = await fetch(player.currentSrc).catch(() => null);
  if (!answer || !answer.ok) return;
  player.src = URL.createObjectURL(await answer.blob());
  if (!paused && players.every(other => other === player || other.paused)) begin(player, begun.get(player) || 0);
};
document.addEventListener("error", event => {
  if (event.target instanceof HTMLAudioElement) takeCopy(event.target);
}, true);
document.querySelectorAll(".lc-picture").forEach(picture => picture.addEventListener("click", event => {
  const player = picture.closest("td").querySelector("audio");
  const seconds = Number(picture.closest("[data-seconds]").dataset.seconds);
  const box = picture.getBoundingClientRect();
  begin(player, seconds * (event.clientX - box.left) / box.width);
}));
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const cell = row && row.querySelectorAll("td")[Number(event.key) - 1];
  const player = cell && cell.querySelector("audio");
  if (!player) return;
  if (player.paused) begin(player, 0); else player.pause();
});
"""


def write_page(path: str | Path, title: str, blocks: Iterable[str]) -> Path:
    """Write a page with a heading; blocks are HTML, such as `paragraph`, `number_table` and a grid of players."""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # else a browser asks a server for an icon that is not there
        '<link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{''.join(blocks)}<script>{SCRIPT}</script></body></html>\n"
    )
    write_text(path, page)
    return Path(path)


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    """Plain text as a heading under the page's own."""
    return f"<h2>{html.escape(text)}</h2>"


def figure(source: str, words: str) -> str:
    """A figure of 7.2 inches at the width at which its text can be read, a link to its file; it scrolls by itself."""
    source, words = html.escape(source), html.escape(words)
    return f'<a class="figure" href="{source}"><img src="{source}" alt="{words}"></a>'


def number_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the rows; it scrolls by itself where a screen is narrow."""
    heads = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return f'<div class="numbers"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
