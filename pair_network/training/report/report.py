"""report.html: one file that shows a run, its pictures inside it, drawn from the run's record."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from pair_network.errors import PairError
from pair_network.files import write_text
from pair_network.images import open_image
from pair_network.sampling.previews import tiles_of

from .record import Record

NAME = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
SIDE = 256  # pixels of a picture in the report
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 240, 48, 26, 24  # of the chart, in its own units
COLOURS = {"content": "#7a7a7a", "style": "#c2410c", "orthogonality": "#2563eb"}


def write_report(record: Record) -> Path:
    """Writes the report of a run beside its files; returns its path."""
    path = Path(record.folder) / NAME
    write_text(path, html_of(record))
    return path


def html_of(record: Record) -> str:
    """The report's HTML; what a user or file gave is escaped."""
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(
        record=record,
        pair=[picture for path in record.pair if (picture := picture_of(Path(path)))],
        times=times_of(record),
        chart=chart(record),
        minutes=f"{record.seconds / 60:.1f}",
    )


def times_of(record: Record) -> list[dict[str, Any]]:
    """For each time of previews: its step, figures, and a row of pictures by column for each prompt."""
    figures = {entry["step"]: {key: value for key, value in entry.items() if key != "step"} for entry in record.figures}
    times = []
    for entry in record.previews:
        rows = [
            {"prompt": prompt, **row}
            for name, prompt in zip(entry["sheets"], entry["prompts"], strict=False)
            if (row := row_of(Path(record.folder) / "sample" / name))
        ]
        if rows:
            times.append({"step": entry["step"], "rows": rows, "figures": figures.get(entry["step"], {})})
    return times


def row_of(sheet: Path) -> dict[str, str]:
    """The pictures of a preview sheet by column, as data URLs; nothing where the file has gone."""
    try:
        tiles = tiles_of(open_image(sheet))
    except PairError:
        return {}
    labels = ("base", "lora", "guidance", "content")
    return {label: data_url(tile) for label, tile in zip(labels, tiles, strict=False)}


def picture_of(path: Path) -> str:
    try:
        image = open_image(path)
    except PairError:
        return ""
    image.thumbnail((SIDE, SIDE))
    return data_url(image)


def data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def chart(record: Record) -> str:
    """The losses by branch as SVG, each smoothed over a twentieth of its points."""
    curves = {name: smoothed(curve) for name, curve in record.losses.items() if len(curve) > 1}
    if not curves:
        return ""
    last = max(record.total_steps, *(curve[-1][0] for curve in curves.values()))
    values = [value for curve in curves.values() for _, value in curve]
    top = max(values) * 1.05 or 1.0
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="losses by branch">']
    for share in (0, 0.5, 1):
        y, x = at(0, share * top, last, top)[1], at(share * last, 0, last, top)[0]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * top:.2g}</text>')
        anchor = "end" if share == 1 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{round(share * last)}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        points = " ".join("{:.1f},{:.1f}".format(*at(step, value, last, top)) for step, value in curve)
        colour = COLOURS.get(name, "#555")
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(f'<text x="{LEFT + 12 + 110 * number}" y="14" style="fill: {colour}">{html.escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def at(step: float, value: float, last: float, top: float) -> tuple[float, float]:
    """Where a point lies in the chart."""
    return LEFT + (WIDTH - LEFT) * step / max(last, 1), TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)


def smoothed(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means over windows of a twentieth of the curve, at most 200 points."""
    width = max(1, len(curve) // 20)
    every = max(1, len(curve) // 200)
    found = []
    for end in range(0, len(curve), every):
        window = [value for _, value in curve[max(0, end - width + 1) : end + 1]]
        found.append((curve[end][0], sum(window) / len(window)))
    return found
