"""ReCLIP's published rules once more, plainly: on spaCy's own documents, one box and one number at a time.

Written from a description of what ``--method parse`` of https://github.com/allenai/reclip does, and used as a reference
only. Distributions are lists of floats; ``nan`` stands for 0 / 0, as there.
"""

from __future__ import annotations

import math

PLACE = {
    "left": "left west",
    "right": "right east",
    "above": "above north top back behind",
    "below": "below south under front",
    "bigger": "bigger larger closer",
    "smaller": "smaller tinier further",
    "inside": "inside within contained",
}
MOST = {
    "left": "left west leftmost western",
    "right": "right rightmost east eastern",
    "above": "above north top",
    "below": "below south underneath front",
    "bigger": "bigger biggest larger largest closer closest",
    "smaller": "smaller smallest tinier tiniest further furthest",
}
NO_OBJECT = ["part", "image", "side", "picture", "half", "region", "section"]


def is_word(groups, word):
    return any(word in words.split() for words in groups.values())


def group(groups, words):
    for name, known in groups.items():
        for word in words:
            if word in known.split():
                return name
    return None


def holds(name, a, b):
    """How far box a is NAME of box b."""
    middle = [(box[0] + box[2], box[1] + box[3], (box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    (ax, ay, asize), (bx, by, bsize) = middle
    if name == "inside":
        wide = min(a[2], b[2]) - max(a[0], b[0])
        high = min(a[3], b[3]) - max(a[1], b[1])
        return max(wide, 0.0) * max(high, 0.0) / asize
    tests = {
        "left": ax < bx,
        "right": ax > bx,
        "above": ay < by,
        "below": ay > by,
        "bigger": asize > bsize,
        "smaller": asize < bsize,
    }
    return float(tests[name])


def noun_phrase(doc, token):
    for chunk in doc.noun_chunks:
        if chunk.start <= token.i < chunk.end:
            return (chunk.start, chunk.end)
    return None


class Thing:
    """A noun phrase with what its subtree says of it: [(words, token)] and [words]."""

    def __init__(self, doc, token):
        self.doc, self.span = doc, noun_phrase(doc, token)
        self.others, self.mosts = [], []
        self.walk(token, [])

    def walk(self, token, words):
        here = noun_phrase(self.doc, token)
        opaque = is_word(PLACE, token.text) or token.text in NO_OBJECT
        if here not in (None, self.span) and not opaque:
            self.others.append((words, token))
            return
        children = list(token.children)
        if not children:
            self.most([*words, token.text])
        for child in children:
            same = here is not None and noun_phrase(self.doc, child) == here
            if same and not is_word(MOST, child.text):
                if len(children) == 1:
                    self.most([*words, token.text])
            elif here is None or opaque or is_word(MOST, token.text):
                self.walk(child, [*words, token.text])
            else:
                self.walk(child, words)

    def most(self, words):
        if group(MOST, words):
            self.mosts.append(group(MOST, words))

    def text(self):
        said = self.doc[self.span[0] : self.span[1]].text
        for words, token in self.others:
            if group(PLACE, words) is None:
                said = self.with_other(noun_phrase(self.doc, token))
        return said

    def with_other(self, span):
        kept = set(range(*self.span))
        for i in range(*span):
            ancestors = [token.i for token in self.doc[i].ancestors]
            if any(self.span[0] <= j < self.span[1] for j in [i, *ancestors]):
                kept |= {token.i for token in self.doc[i].subtree} | set(ancestors) | {i}
        return " ".join(self.doc[i].text for i in sorted(kept))

    def distribution(self, score, boxes):
        every = range(len(boxes))
        now = score(self.text())
        for words, token in self.others:
            name = group(PLACE, words)
            if name is not None:
                other = Thing(self.doc, token).distribution(score, boxes)
                now = [now[r] * sum(other[s] * holds(name, boxes[r], boxes[s]) for s in every) for r in every]
                now = divided(now)
        if sorted(now)[-2] > 0:
            for name in self.mosts:
                now = [now[r] * sum(now[s] * holds(name, boxes[r], boxes[s]) for s in every) for r in every]
                now = divided(now)
        return now


def divided(values):
    total = sum(values)
    return [math.nan for _ in values] if total == 0 or math.isnan(total) else [value / total for value in values]


def thing_of(doc, token):
    if noun_phrase(doc, token) is not None:
        return Thing(doc, token)
    for child in list(token.children)[:1]:
        if noun_phrase(doc, child) is not None:
            return Thing(doc, child)
    return None


def published(doc, score, boxes):
    """The weights of all regions, and the choice.

    Args:
        doc: the parsed sentence, in lower case.
        score: from a text to its distribution over the boxes.
        boxes: at least one, xyxy.
    """
    whole = score(doc.text)
    thing = thing_of(doc, next(token for token in doc if token.head.i == token.i))
    chunks = list(doc.noun_chunks)
    if thing is None and chunks:
        thing = thing_of(doc, chunks[0].root.head)
    known = any(is_word(PLACE, token.text) or is_word(MOST, token.text) for token in doc)
    if thing is not None and known and len(boxes) > 1:
        whole = [a * b for a, b in zip(whole, thing.distribution(score, boxes), strict=True)]
    return whole, 0 if any(map(math.isnan, whole)) else max(range(len(boxes)), key=lambda r: (whole[r], -r))
