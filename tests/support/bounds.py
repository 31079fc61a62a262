"""Run in an environment of the lowest versions: it must hold exactly those that pyproject.toml names."""

from __future__ import annotations

import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.version import Version


def false_bounds(package: str = "bsap") -> list[str]:
    """A sentence for each requirement whose lowest version is not the installed one."""
    found = []
    for line in requires(package) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if requirement.name == package or (marker and not any(marker.evaluate({"extra": e}) for e in _tested())):
            continue
        (lowest,) = (Version(s.version) for s in requirement.specifier if s.operator in (">=", "=="))
        installed = Version(version(requirement.name))
        if installed != lowest:
            found.append(f"{requirement.name}>={lowest} cannot be installed; the lowest that can be is {installed}.")
    return found


def _tested() -> tuple[str, ...]:
    return ("", "test", "data", "hf", "parquet", "phrases")


if __name__ == "__main__":
    problems = false_bounds()
    print("\n".join([*problems, "Raise these bounds in pyproject.toml."]) if problems else "All bounds are tested.")
    sys.exit(bool(problems))
