"""The auxiliary prompts of scenes: which texts they are, their features, and for which expression each counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bsap.datamodules.scene import Scene
from bsap.features.regions import pad
from bsap.prompts.banks import Bank
from bsap.prompts.equal_texts import bank_mask


def bank_texts(scene: Scene, bank: Bank | None) -> list[Sequence[str]]:
    """The prompts of a scene: one list for all its expressions, or, of a bank of the query, one for each."""
    if bank is None:
        return [()]
    if bank.of_query is not None:
        return [bank.prompts_of(expression.text) for expression in scene.expressions]
    return [scene.texts if bank.per_scene else bank.prompts]


def nested(flat: Tensor, counts: Sequence[Sequence[int]]) -> Tensor:
    """Stack rows that are ragged in two dimensions.

    Args:
        flat: (sum of all counts, ...) rows, list after list.
        counts: for each of the B scenes the lengths of its lists.

    Returns:
        (B, most lists, longest list, ...), zero in the padding; at least one row in each list, so that no dimension of
        a bank is empty where only some of the lists are.

    Example:
        >>> nested(torch.tensor([[1.0], [2.0], [3.0]]), [[2], [0, 1]])[..., 0].tolist()
        [[[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]]]
    """
    lists = [length for some in counts for length in some]
    rest = flat.shape[1:]
    rows, _ = pad(flat.flatten(1), lists)
    if rows.shape[1] == 0:
        rows = rows.new_zeros(len(lists), 1, rows.shape[-1])
    longest = rows.shape[1]
    padded, _ = pad(rows.flatten(1), [len(some) for some in counts])
    return padded.view(len(counts), padded.shape[1], longest, *rest)


def bank_rows(scenes: Sequence[Scene], bank: Bank, encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """The features of the prompts of B scenes; ``encode`` gives the (N, D) features of N prompts.

    Returns:
        (K, D) where all scenes share the prompts, (B, K, D) where the expressions of each scene do, (B, E, K, D) for a
        bank of the query; zero in the padding.
    """
    if bank.of_query is None and not bank.per_scene:
        return encode(bank.prompts)
    lists = [bank_texts(scene, bank) for scene in scenes]
    features = encode([text for some in lists for texts in some for text in texts])
    rows = nested(features, [[len(texts) for texts in some] for some in lists])
    return rows if bank.of_query is not None else rows[:, 0]


def scene_bank_mask(scenes: Sequence[Scene], bank: Bank | None) -> Tensor | None:
    """Which prompts count for which expression of B scenes, on the CPU.

    An expression is never an auxiliary prompt of itself, nor of a part of itself: a bank drawn from the expressions
    under test leaves out the texts equal to the query or to the sentence that the query is part of. A bank that saw no
    test text needs no mask.

    Returns:
        (B, E, K) bool, or None where all prompts count.
    """
    if bank is None or not (bank.transductive or bank.of_query is not None):
        return None
    most = max(len(scene.expressions) for scene in scenes)
    lists = [bank_texts(scene, bank) for scene in scenes]
    longest = max((len(texts) for some in lists for texts in some), default=0)
    mask = torch.zeros(len(scenes), most, max(longest, 1 if bank.of_query is not None else 0), dtype=torch.bool)
    for index, (scene, some) in enumerate(zip(scenes, lists, strict=True)):
        queries = [expression.text for expression in scene.expressions]
        if bank.of_query is not None:
            for row, (query, prompts) in enumerate(zip(queries, some, strict=True)):
                mask[index, row, : len(prompts)] = bank_mask([query], prompts)[0]
            continue
        (prompts,) = some
        wholes = [expression.part_of or expression.text for expression in scene.expressions]
        mask[index, : len(queries), : len(prompts)] = bank_mask(queries, prompts) & bank_mask(wholes, prompts)
    return mask
