"""Notebooks as pages: their words, code and outputs, as they were kept."""

import base64
import json
import re
from pathlib import Path
from typing import Any


def notebook_page(path: Path, pictures: Path) -> str:
    """Markdown of a notebook; its pictures are written to a folder named like it, beside the page."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    pictures.mkdir(parents=True, exist_ok=True)
    parts, number = [], 0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                number += 1
                name = f"{number:02}.png"
                (pictures / name).write_bytes(base64.b64decode("".join(data["image/png"])))
                words = "".join(data.get("text/plain", "figure")).replace("\n", " ").replace("[", "(").replace("]", ")")
                parts.append(f"![{words}]({pictures.name}/{name})")
            elif "text/html" in data:
                parts.append(_table("".join(data["text/html"])))
            else:
                parts.append(_text(output))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(text: str) -> str:
    """Table of a data frame or of runs as HTML, in the look of the site."""
    inside = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    inside = re.sub(r"<table[^>]*>", '<div class="table-wrapper"><table class="docutils">', inside)
    inside = re.sub(r"</table>", "</table></div>", inside)
    return f"```{{raw}} html\n{inside.strip()}\n```"


def _text(output: dict[str, Any]) -> str:
    text = "".join(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""
