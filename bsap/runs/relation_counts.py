"""How many sentences of a run have which relation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bsap.runs.schema import Record, RelationCounts


def relation_counts(records: Sequence[Record]) -> RelationCounts:
    """Count what was understood of the sentences of a run with relations.

    Args:
        records: with ``relations``; others count as nothing.

    Returns:
        Sentences by status; sentences by each relation that they have, once for each sentence; and sentences of which
        a relation left some scorer no region.
    """
    known = [record for record in records if "relations" in record]
    statuses = Counter(record["relations"]["status"] for record in known)
    found = Counter(name for record in known for name in dict.fromkeys(record["relations"]["found"]))
    return {
        "sentences": dict(sorted(statuses.items())),
        "found": dict(sorted(found.items())),
        "contradictions": sum(
            any(None in choice.get("steps", ()) for choice in record["scorers"].values()) for record in known
        ),
    }
