"""Pictures for the metadata panel of the web UI."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture(figure: Figure, alt: str) -> dg.MarkdownMetadataValue:
    """The figure as a PNG inside Markdown, which the UI shows in place."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, bbox_inches="tight")
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png.getvalue()).decode()})")
