"""Parsed sentences: what relations and the banks of the query need of spaCy, kept beside the feature store."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsap.errors import ModelError
from bsap.prompts.phrases import load_parser

if TYPE_CHECKING:
    from spacy.tokens import Doc

ENGLISH = "en_core_web_sm"
"""The pipeline that ReCLIP uses."""


@dataclass(frozen=True)
class Sentence:
    """A parsed sentence of n words.

    Attributes:
        words: n words and marks.
        spaces: whether a space follows each.
        heads: the index of each word's head in the dependency tree; a root is its own head.
        deps: the names of these dependencies, such as ``nsubj``.
        tags: coarse parts of speech, such as ``NOUN``.
        chunks: first word, and first word after it, of each noun phrase; they do not overlap.
    """

    words: tuple[str, ...]
    spaces: tuple[bool, ...]
    heads: tuple[int, ...]
    deps: tuple[str, ...]
    tags: tuple[str, ...]
    chunks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, doc: Doc) -> Sentence:
        """What a document of spaCy says.

        Raises:
            ValueError: the document was not parsed.
            NotImplementedError: spaCy knows no noun phrases of its language.
        """
        return cls(
            words=tuple(token.text for token in doc),
            spaces=tuple(bool(token.whitespace_) for token in doc),
            heads=tuple(token.head.i for token in doc),
            deps=tuple(token.dep_ for token in doc),
            tags=tuple(token.pos_ for token in doc),
            chunks=tuple((chunk.start, chunk.end) for chunk in doc.noun_chunks),
        )

    def text(self, chunk: int) -> str:
        """A noun phrase as it stands in the sentence."""
        start, stop = self.chunks[chunk]
        return "".join(self.words[n] + " " * self.spaces[n] for n in range(start, stop)).rstrip(" ")

    def chunk(self, word: int) -> int | None:
        """The noun phrase that a word is in."""
        return next((n for n, (start, stop) in enumerate(self.chunks) if start <= word < stop), None)

    def children(self, word: int) -> list[int]:
        """The words whose head is a word, in their order."""
        return [n for n, head in enumerate(self.heads) if head == word != n]

    def above(self, word: int) -> list[int]:
        """A word, its head, the head's head and so on up to a root."""
        found = [word]
        while (head := self.heads[found[-1]]) != found[-1]:
            found.append(head)
        return found

    def below(self, word: int) -> list[int]:
        """A word and all that depend on it, directly or not."""
        found = [word]
        for one in found:
            found += self.children(one)
        return found

    def root(self, chunk: int) -> int:
        """The first word of a noun phrase whose head is outside of it, or that is a root."""
        start, stop = self.chunks[chunk]
        outside = [n for n in range(start, stop) if self.heads[n] == n or not start <= self.heads[n] < stop]
        return (outside or [start])[0]

    def about(self) -> int | None:
        """The noun that the sentence is about: of the root's noun phrase, its first dependent's, or the first one."""
        roots = [n for n, head in enumerate(self.heads) if n == head][:1]
        for word in (*roots, *(child for root in roots for child in self.children(root)[:1])):
            if (chunk := self.chunk(word)) is not None:
                return self.root(chunk)
        return self.root(0) if self.chunks else None


class Sentences:
    """Sentences parsed by one spaCy pipeline, each once, in batches, and kept on disk.

    Args:
        model: name or folder of the pipeline.
        folder: where parses are kept: one file of JSON lines for each process, of which readers take the union; None
            keeps them in memory only.
        use: what needs the pipeline, for the error where there is none.

    Attributes:
        pipeline: name, language and version of the pipeline, and spaCy's version: what a parse depends on.

    Raises:
        ModelError: spaCy or the pipeline is not installed, or the pipeline has no parser.
    """

    def __init__(self, model: str = ENGLISH, *, folder: Path | None = None, use: str = "Parses") -> None:
        self.folder, self._parser = folder, load_parser(model, use=use)
        meta: dict[str, Any] = self._parser.meta
        self.pipeline = {
            "name": f"{meta['lang']}_{meta['name']}",
            "language": str(meta["lang"]),
            "version": str(meta["version"]),
            "spacy": version("spacy"),
        }
        if "parser" not in self._parser.pipe_names:
            raise ModelError(
                f"{use} need a spaCy pipeline with a parser, but {model!r} has {self._parser.pipe_names}. "
                f"Choose another, such as {ENGLISH}."
            )
        self._name = "parses-" + sha256(json.dumps(self.pipeline).encode()).hexdigest()[:12]
        self._known: dict[str, Sentence | None] = {}
        self._new: list[str] = []
        for path in sorted(folder.glob(f"{self._name}-*.jsonl")) if folder else ():
            self._read(path)

    def __call__(self, text: str) -> Sentence | None:
        """A parsed sentence; None where the pipeline could not parse it."""
        if text not in self._known:
            self.prepare([text])
        return self._known[text]

    def prepare(self, texts: Iterable[str]) -> None:
        """Parse all texts that are not known yet, in batches."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        others = [name for name in self._parser.pipe_names if name in ("ner", "lemmatizer")]
        parsed: list[Sentence | None]
        try:
            parsed = [Sentence.of(doc) for doc in self._parser.pipe(new, disable=others)]
        except Exception:  # one text must not take the others with it, and pipelines raise what they like
            parsed = [None] * len(new) if len(new) == 1 else []
        if len(parsed) < len(new):
            for text in new:
                self.prepare([text])
            return
        for text, sentence in zip(new, parsed, strict=True):
            self._known[text] = sentence
            if sentence is not None:
                self._new.append(json.dumps([text, *(getattr(sentence, name) for name in Sentence.__match_args__)]))

    def _read(self, path: Path) -> None:
        lines: list[str] = []
        with suppress(OSError):  # another user's, perhaps; its sentences are parsed again
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            # A line that a killed process left half-written: the sentence is parsed again.
            with suppress(ValueError, TypeError, RecursionError):
                text, words, spaces, heads, deps, tags, chunks = json.loads(line)
                pairs = tuple((int(start), int(stop)) for start, stop in chunks)
                rows = (tuple(words), tuple(spaces), tuple(heads), tuple(deps), tuple(tags))
                self._known[text] = Sentence(*rows, pairs)

    def flush(self) -> None:
        """Write the new parses for later runs."""
        if self._new and self.folder is not None:
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                target = self.folder / f"{self._name}-{uuid.uuid4().hex}.jsonl"
                target.write_text("\n".join(self._new) + "\n", encoding="utf-8")
        self._new = []
