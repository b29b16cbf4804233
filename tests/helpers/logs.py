"""Logs of runs, made from records as people write them.

report(folder, samples, "PICS", {"b": "broken"})
"""

import yaml

from reporting.log import MERGED, line_of, scan
from reporting.write import write_report


def report(folder, samples, method, failures=None, *more):
    """Write a run's log from the records <name>_caption.yaml and its report; the summary."""
    lines = []
    for index, name in enumerate(samples.names):
        path = folder / f"{name}_caption.yaml"
        if path.exists():
            lines.append(line_of({**yaml.safe_load(path.read_text()), "index": index}))
        elif name in (failures or {}):
            lines.append(line_of({"name": name, "failed": failures[name], "index": index}))
    (folder / MERGED).write_bytes(b"".join(lines))
    return write_report(scan(folder, samples.names), samples.name, method, *more)
