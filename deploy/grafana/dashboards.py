#!/usr/bin/env python3
"""Writes dashboards/*.json. `dashboards.py --check` writes nothing and fails where they are not what this makes."""

import json
import pathlib
import sys

import fleet
import gpu

FOLDER = pathlib.Path(__file__).parent / "dashboards"


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, made in [("worker-fleet", fleet.dashboard()), ("gpu", gpu.dashboard())]:
        path = FOLDER / f"{name}.json"
        text = json.dumps(made, indent=2) + "\n"
        if check and (not path.exists() or path.read_text() != text):
            stale.append(str(path))
        elif not check:
            path.write_text(text)
    if stale:
        sys.exit(f"not what dashboards.py makes, run it and commit: {', '.join(stale)}")


if __name__ == "__main__":
    main()
