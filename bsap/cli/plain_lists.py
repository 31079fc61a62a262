"""Lists on the command line as plain words: ``--model.views crop blur`` instead of ``--model.views '[crop, blur]'``."""

from __future__ import annotations

import json
from collections.abc import Sequence

LISTS = ("--data.expressions", "--model.encoders", "--model.scorers", "--model.tasks", "--model.views")
"""The settings that take several values."""


def plain_lists(argv: Sequence[str]) -> list[str]:
    """Arguments in which plain words after a setting that takes several values become one list.

    A value in YAML's own form, which starts with a bracket, stays as it is.

    Args:
        argv: the options of a command.

    Example:
        >>> plain_lists(["--model.views", "crop", "blur", "--model.bank", "generic"])
        ['--model.views', '["crop", "blur"]', '--model.bank', 'generic']
        >>> plain_lists(["--model.encoders=demo"]), plain_lists(["--model.views", "[crop]"])
        (['--model.encoders=["demo"]'], ['--model.views', '[crop]'])
    """
    found: list[str] = []
    index = 0
    while index < len(argv):
        name, sign, value = argv[index].partition("=")
        index += 1
        if name not in LISTS:
            found.append(argv[index - 1])
        elif sign:
            found.append(f"{name}={_joined([value])}")
        else:
            values = []
            while index < len(argv) and not argv[index].startswith("-"):
                values.append(argv[index])
                index += 1
            found += [name, _joined(values)] if values else [name]
    return found


def _joined(values: Sequence[str]) -> str:
    if len(values) == 1 and (not values[0] or values[0][0] in "[{" or values[0] == "null"):
        return f"[{values[0]}]" if values[0].startswith("{") else values[0]
    return json.dumps(list(values), ensure_ascii=False)
