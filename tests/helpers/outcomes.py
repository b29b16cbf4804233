"""A table of how many damaged inputs ended in what.

counts[kind, way, outcome] += 1
print(table(counts, ("file", "changed"), ("read", "CodecFileError")))
"""

from collections import Counter
from collections.abc import Sequence

UNDOCUMENTED = "undocumented"  # an outcome that must not be


def table(counts: Counter, heads: tuple[str, str], outcomes: Sequence[str]) -> str:
    """Return a Markdown table: a row for each kind and way, a column for each outcome that was."""
    seen = {outcome for _, _, outcome in counts}
    columns = [outcome for outcome in (*outcomes, UNDOCUMENTED) if outcome in seen]
    rows = [f"| {' | '.join([*heads, *columns])} |", f"|---|---|{'---:|' * len(columns)}"]
    for kind, way in sorted({key[:2] for key in counts}):
        cells = [str(counts[kind, way, column]) for column in columns]
        rows.append(f"| {kind} | {way} | {' | '.join(cells)} |")
    return "\n".join(rows)
