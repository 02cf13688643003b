#!/usr/bin/env python3
"""Holds the licences and sources of all dependencies against deny.toml, from what cargo itself knows.

`cargo deny check` does the same and more (advisories); this needs nothing that has to be built or fetched first.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def allows(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be met with the allowed licences: `A OR B`, `A AND B`, `A/B`, brackets."""
    tokens = re.findall(r"\(|\)|\bAND\b|\bOR\b|/|[A-Za-z0-9.+-]+(?: WITH [A-Za-z0-9.-]+)?", expression)
    words = {"(": "(", ")": ")", "AND": "and", "OR": "or", "/": "or"}
    parts = [words.get(token, str(token in allowed)) for token in tokens]
    return bool(parts) and bool(eval(" ".join(parts)))  # noqa: S307 - only the six words above get here


def main() -> int:
    root = Path(__file__).parent.parent
    policy = tomllib.loads((root / "deny.toml").read_text())["licenses"]
    allowed = set(policy["allow"])
    clarified = {entry["crate"]: entry["expression"] for entry in policy.get("clarify", [])}
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    wrong = []
    packages = [package for package in metadata["packages"] if package["id"] in used and package["source"]]
    for package in packages:
        name = f"{package['name']} {package['version']}"
        licence = package["license"] or clarified.get(package["name"])
        if not licence or not allows(licence, allowed):
            wrong.append(f"{name}: licence {licence!r} is not in deny.toml")
        if package["source"] != REGISTRY:
            wrong.append(f"{name}: comes from {package['source']}")
    print("\n".join(wrong) or f"{len(packages)} dependencies, all from crates.io under allowed licences")
    return 1 if wrong or not packages else 0


if __name__ == "__main__":
    sys.exit(main())
