"""A bar of a file's bytes, a part for each layer.

layer_bar({"header": 12, "text": 17, "sketch": 90})
"""

from collections.abc import Mapping

COLORS = {
    "text": "#4477aa",
    "sketch": "#228833",
    "color": "#ee6677",
    "base": "#ee6677",
}
OTHER = "#999999"


def layer_bar(sizes: Mapping[str, int]) -> str:
    """Return a bar and its legend as HTML.

    sizes: {layer: bytes}, as `bitstream.layer_sizes` gives them; all names are this project's.
    """
    total = sum(sizes.values())
    parts, legend = [], []
    for name, size in sizes.items():
        if not size:
            continue
        color = COLORS.get(name, OTHER)
        width = 100 * size / total
        parts.append(f'<div style="width:{width:.2f}%;background:{color}"></div>')
        mark = f'<span style="color:{color}">&#9632;</span>'
        legend.append(f"<span>{mark} {name} {size}</span>")
    bar = f'<div style="display:flex;height:1.2em">{"".join(parts)}</div>'
    row = '<div style="display:flex;flex-wrap:wrap;gap:0 1em">'
    return f'<div class="bytes">{bar}{row}{"".join(legend)}<b>{total} bytes</b></div></div>'
