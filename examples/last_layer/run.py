"""Debias the last layer of a classifier with text alone, beside retraining on group-balanced pictures."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from method import Projection, Prompts, Words, fit_layer, group_accuracy, unfit_words
from pictures import Samples, clip_features, draw_samples, read_samples, torchvision_classifier
from torch import nn

from bsap.errors import BSAPError, ConfigError
from bsap.models.encoder import Encoder


def main(args: Sequence[str] | None = None) -> int:
    """Run the example and print its table; 2 for a mistake that the message explains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=Path, default=Path(__file__).with_name("words.yaml"), help="a YAML file")
    parser.add_argument("--pictures", type=Path, help="folder of pictures; by default a world is drawn")
    parser.add_argument("--metadata", type=Path, help="CSV file with file, class, group and split of the pictures")
    parser.add_argument("--encoder", default="demo", help="CLIP model, as for bsap test (default: %(default)s)")
    parser.add_argument("--classifier", default="resnet18", help="clip or a torchvision model (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="weights of the classifier; by default it is trained here")
    parser.add_argument("--side", type=int, default=32, help="pixels of the classifier's input (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="of the classifier's training (default: %(default)s)")
    parser.add_argument("--train", type=int, default=400, help="drawn training pictures (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: %(default)s)")
    options = parser.parse_args(args)
    try:
        table = evaluate(options)
    except BSAPError as error:
        print(f"last_layer: {error}", file=sys.stderr)
        return 2
    for name, row in table.items():
        mean, worst = ("{:6.2f} ± {:5.2f}".format(*(100 * value for value in pair)) for pair in row)
        print(f"{name:26} worst group {worst}   mean {mean}")
    return 0


def evaluate(options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Mean and standard deviation over seeds of the mean and the worst-group accuracy of each method."""
    words = Words.read(options.words)
    encoder = Encoder(options.encoder)
    words.check(encoder)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        if options.pictures is None:
            splits = {
                "train": draw_samples(words, options.train, agreement=0.95, seed=10 * seed),
                "val": draw_samples(words, 100, agreement=0.5, seed=10 * seed + 1),
                "test": draw_samples(words, 400, agreement=0.5, seed=10 * seed + 2),
            }
        elif options.metadata is None:
            raise ConfigError("--pictures needs --metadata, a CSV file with file, class, group and split.")
        else:
            splits = read_samples(options.pictures, options.metadata, words)
        for name, accuracies in compare(words, encoder, splits, options).items():
            found.setdefault(name, []).append(accuracies)
    return {
        name: [(statistics.fmean(values), statistics.pstdev(values)) for values in zip(*rows, strict=True)]
        for name, rows in found.items()
    }


def compare(
    words: Words, encoder: Encoder, splits: dict[str, Samples], options: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """Mean and worst-group accuracy of every method on the test split."""
    train, val, test = (splits[name] for name in ("train", "val", "test"))
    classes = len(words.classes)
    images = clip_features(encoder, train)
    if options.classifier == "clip":
        features, layer = partial(clip_features, encoder), fit_layer(images, train.labels, classes=classes)
    else:
        features, layer = torchvision_classifier(
            options.classifier, train, classes, weights=options.weights, side=options.side, epochs=options.epochs
        )
    texts = encoder.encode_text(Prompts.of(words).texts)
    layers = {"biased": layer}
    layers["group-balanced pictures"] = fit_layer(features(val), val.labels, val.groups, classes=classes)
    projections = {gap: Projection.fit(images, features(train), texts, ignore_gap=gap) for gap in (True, False)}
    dropped = unfit_words(words, encoder, projections[True], layer)
    for reason in dropped.values():
        print(f"dropped: {reason}")

    def retrained(projection: Projection, without: Sequence[str]) -> nn.Linear:
        prompts = Prompts.of(words, without)
        groups = prompts.labels * len(words.attributes) + prompts.attributes
        return fit_layer(projection(encoder.encode_text(prompts.texts)), prompts.labels, groups, classes=classes)

    layers["texts (TLDR)"] = retrained(projections[True], tuple(dropped))
    layers["texts, gap not ignored"] = retrained(projections[False], tuple(dropped))
    layers["texts, words not checked"] = retrained(projections[True], ())
    rows = features(test)
    return {name: group_accuracy(layer, rows, test.labels, test.groups) for name, layer in layers.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)  # on another number, sums are rounded otherwise and training ends elsewhere
    sys.exit(main())
