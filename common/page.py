"""What the server's report and the sites' reports have in common: type, colours, numbers.

A report is one HTML file: no network, no font but the reader's own, no script. Its figures are
matplotlib SVGs whose colours are CSS variables, so one file is right in light, dark and print.
"""

import html
import io
import math
import re
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

# Matplotlib knows no CSS variable: figures are drawn in these stand-ins, replaced in the SVG.
INK = "#fe0100"
MUTED = "#fe0101"
RULE = "#fe0102"
ACCENT = "#fe0103"
PAPER = "#fe0104"
WARN = "#fe0105"
SERIES = tuple(f"#fe01{n:02x}" for n in range(0x10, 0x18))
"""Eight colours to tell sites apart; a ninth site starts again."""

_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    ACCENT: "--accent",
    PAPER: "--paper",
    WARN: "--warn",
    **{color: f"--series-{n}" for n, color in enumerate(SERIES)},
}

_DRAWING: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 11.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.labelsize": 11.5,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "text.color": INK,
}


def drawing() -> Any:
    """Context in which a report's figures are laid out (fonts, grid, stand-in colours)."""
    return matplotlib.rc_context(_DRAWING)


def figure(width_px: float, height_px: float) -> Figure:
    """An empty figure of that size; inside `drawing`."""
    return Figure(figsize=(width_px / 72, height_px / 72), layout="constrained")


def title(training: str) -> str:
    """A training's name above a small panel: a long one breaks at its slash."""
    return training if len(training) <= 32 else training.replace("/", "/\n", 1)


def svg(drawn: Figure, *, name: str, alt: str) -> Markup:
    """A figure as inline SVG: themed by CSS, the same bytes each time, described for all readers.

    Args:
        drawn: Made inside `drawing`.
        name: Of the figure, unique on the page: ids are made of it.
        alt: One or two sentences that say what the picture shows.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**_DRAWING, "svg.hashsalt": name}):
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        drawn.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    # The reader's own sans serif; DejaVu, which matplotlib measured with, is wider than most.
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+)px [^;\"]*", r"font: \1\2px var(--sans)", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    width, height = (float(x) for x in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0])
    opening = (
        f'<svg role="img" aria-label="{html.escape(alt, quote=True)}" class="plot" '
        f'viewBox="0 0 {width:g} {height:g}"'
    )
    text = re.sub(r"<svg\b[^>]*>", opening + ">", text, count=1)
    text = text.replace(' xlink:href="', ' href="')
    return Markup(text)


def environment(templates: Path) -> jinja2.Environment:
    """Templates of a folder with the house's filters; everything inserted is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": number,
        "signed": signed,
        "p": p_value,
        "percent": percent,
        "megabytes": megabytes,
        "duration": duration,
        "count": count,
    }
    made.globals["style"] = Markup(STYLE)
    return made


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits; an en dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """With a sign, the minus a real one."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """A share as whole percent."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.0f}\u202f%".replace("-", "−")


def p_value(value: float | None) -> Markup:
    """A p value as a number: three decimals, below .001 in powers of ten."""
    if value is None or not math.isfinite(value):
        return Markup("–")
    if value >= 0.001:
        return Markup(f"{value:.3f}")
    if value == 0:
        return Markup("&lt;&#8239;10<sup>−300</sup>")
    exponent = math.floor(math.log10(value))
    return Markup(f"{value / 10**exponent:.1f}&#8239;×&#8239;10<sup>−{-exponent}</sup>")


def megabytes(value: float) -> str:
    """Bytes as MB (10^6)."""
    mega = value / 1e6
    if value and mega < 0.01:
        return "<\u202f0.01"
    return f"{mega:,.0f}" if mega >= 100 else f"{mega:.1f}" if mega >= 1 else f"{mega:.2f}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def count(value: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{value:,} {noun}" + ("" if value == 1 else "s")


STYLE = """
:root { color-scheme: light dark;
  --sans: "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif;
  --serif: Charter, "Bitstream Charter", "Source Serif 4", Georgia, "Liberation Serif", serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  --paper: #ffffff; --wash: #f5f6f4; --ink: #15191d; --muted: #59636d; --rule: #d8dcdf;
  --accent: #00695f; --tint: #e3f0ee; --warn: #a33a12; --warn-tint: #fbeee7;
  --series-0: #0067a5; --series-1: #c9530a; --series-2: #00875f; --series-3: #b3518d;
  --series-4: #85690a; --series-5: #6650a4; --series-6: #4b5761; --series-7: #a4262c; }
@media screen and (prefers-color-scheme: dark) { :root {
  --paper: #12161a; --wash: #1a2025; --ink: #e7eaec; --muted: #9ba6b0; --rule: #313940;
  --accent: #58c9bb; --tint: #17332f; --warn: #f0946b; --warn-tint: #38221a;
  --series-0: #62b5ee; --series-1: #f59a55; --series-2: #4fcf9f; --series-3: #e496c6;
  --series-4: #dcc04e; --series-5: #b7a3ea; --series-6: #b3bdc6; --series-7: #f28b8b; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 var(--sans); font-variant-numeric: tabular-nums; }
main { max-width: 1088px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font: 600 38px/1.12 var(--serif); letter-spacing: -.012em; margin: 0; text-wrap: balance;
  overflow-wrap: anywhere; }
h2 { font: 600 21px/1.25 var(--serif); margin: 0 0 4px; }
h3 { font: 600 14px/1.35 var(--sans); margin: 20px 0 6px; }
p { margin: 0 0 10px; max-width: 74ch; text-wrap: pretty; }
a { color: var(--accent); }
section { margin-top: 44px; border-top: 1px solid var(--ink); padding-top: 14px; }
.eyebrow { font: 600 12px/1.4 var(--sans); letter-spacing: .08em; text-transform: uppercase;
  color: var(--accent); margin: 0 0 8px; }
.lede { font: 400 19px/1.5 var(--serif); margin: 14px 0 0; max-width: 66ch; }
.lede b, .lede strong { font-weight: 600; }
.note, figcaption, .caption { font-size: 13px; line-height: 1.5; color: var(--muted); }
.caption { margin: 8px 0 0; max-width: 92ch; }
.caption b, figcaption b { color: var(--ink); }
.banner { border-left: 5px solid var(--warn); background: var(--warn-tint); color: var(--ink);
  padding: 12px 16px; margin: 0 0 26px; font-size: 15px; max-width: none; }
sup { line-height: 0; font-size: .72em; }
.banner b { color: var(--warn); letter-spacing: .03em; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr));
  gap: 0; margin: 26px 0 0; border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule);
  padding: 0; }
.facts div { padding: 12px 14px 12px 0; }
.facts dt { font-size: 12px; color: var(--muted); }
.facts dd { margin: 2px 0 0; font: 600 22px/1.25 var(--serif); }
.facts dd small { font: 400 13px/1.3 var(--sans); color: var(--muted); display: block; }
figure { margin: 14px 0 0; }
svg.plot, svg.diagram { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; line-height: 1.35;
  margin-top: 14px; }
.scroll + .scroll, figure + .scroll { margin-top: 30px; }
caption { text-align: left; font-size: 13px; color: var(--muted); padding: 0 0 6px; }
caption b { color: var(--ink); }
th, td { padding: 6px 12px 6px 0; text-align: left; vertical-align: baseline; font-weight: 400; }
th:last-child, td:last-child { padding-right: 8px; }
thead th { font-size: 12.5px; color: var(--muted); border-bottom: 1px solid var(--ink);
  vertical-align: bottom; }
thead { border-top: 1px solid var(--ink); }
tbody { border-bottom: 1px solid var(--rule); }
tbody:last-of-type { border-bottom: 1px solid var(--ink); }
tbody tr.group th { font-weight: 600; padding-top: 14px; }
tbody tr.group th small { font-weight: 400; color: var(--muted); font-size: 12.5px;
  margin-left: 8px; }
td.n, th.n { text-align: right; white-space: nowrap; }
th.span { text-align: center; border-bottom: 1px solid var(--rule); }
td.ci { color: var(--muted); font-size: 12.5px; white-space: nowrap; }
tr.main td, tr.main th { background: var(--tint); }
tr.main th { font-weight: 600; box-shadow: inset 3px 0 var(--accent); padding-left: 12px; }
tr.sub th { padding-left: 12px; }
tr.total td, tr.total th { font-weight: 600; border-top: 1px solid var(--rule); }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 10px 0 0;
  padding: 0; font-size: 13px; }
.key svg { vertical-align: -1px; margin-right: 6px; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 5px;
  margin-right: 6px; }
.badge { font-size: 11.5px; font-weight: 600; border: 1px solid currentColor; border-radius: 3px;
  padding: 0 5px; color: var(--muted); white-space: nowrap; }
.badge.warn { color: var(--warn); }
ul.plain { padding-left: 18px; margin: 8px 0; max-width: 84ch; }
ul.plain li { margin: 4px 0; }
dl.words { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 10px 0 0;
  font-size: 13.5px; }
dl.words dt { font-weight: 600; } dl.words dd { margin: 0; color: var(--muted);
  overflow-wrap: anywhere; }
code, pre { font: 12.5px/1.45 var(--mono); overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: var(--wash); padding: 12px 14px; margin: 8px 0 0; }
details { margin-top: 12px; } summary { cursor: pointer; font-size: 14px; }
.meter { display: inline-block; width: 100%; min-width: 60px; height: 8px;
  background: var(--wash); vertical-align: middle; }
.meter i { display: block; height: 100%; background: var(--accent); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 8px 40px; }
.pair > * { min-width: 0; }
footer { margin-top: 48px; padding-top: 12px; border-top: 1px solid var(--rule);
  font-size: 12.5px; color: var(--muted); }
@media (max-width: 700px) { main { padding: 24px 16px 40px; } h1 { font-size: 29px; }
  .lede { font-size: 17px; } .pair { grid-template-columns: 1fr; }
  .scroll > svg { min-width: 680px; } dl.words { grid-template-columns: 1fr; gap: 0; }
  dl.words dd { margin-bottom: 8px; } }
@media print { @page { size: A4; margin: 14mm; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  body { font-size: 9.5pt; } main { max-width: none; padding: 0; }
  section { margin-top: 22px; } h1 { font-size: 26pt; } .lede { font-size: 12.5pt; }
  h2, h3, thead { break-after: avoid; } figure, tr, .banner { break-inside: avoid; }
  table { font-size: 8.5pt; } th, td { padding-top: 3px; padding-bottom: 3px; }
  td.ci, thead th, caption, .note, figcaption, .caption, .key, dl.words, footer,
  tbody tr.group th small, .facts dt, .facts dd small { font-size: 8pt; }
  .banner { font-size: 9.5pt; } .facts { grid-template-columns: repeat(6, 1fr); }
  .facts dd { font-size: 13pt; } details:not([open]) { display: none; } }
"""
