"""Text features are encoded once."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from bsap.features.texts import TextCache
from bsap.models.encoder import Encoder


class Counting:
    """Encodes a text as numbers made of it, and remembers what it was asked."""

    dim = 3
    device = torch.device("cpu")

    def __init__(self):
        self.asked = []

    def encode_text(self, texts, *, normalize=True):
        self.asked += texts
        rows = torch.tensor([[len(text), hash(text) % 1000, 1.0] for text in texts])
        return F.normalize(rows, dim=-1) if normalize else rows


@given(st.lists(st.lists(st.sampled_from([f"text {i}" for i in range(40)]), max_size=12), max_size=12))
def test_cache_answers_as_the_encoder_and_asks_once(batches):
    cache, plain = TextCache(Counting()), Counting()
    for batch in batches:
        expected = plain.encode_text(batch) if batch else torch.empty(0, 3)
        assert torch.equal(cache.features(batch), expected)
    assert len(cache.encoder.asked) == len(set(cache.encoder.asked)) == len(cache)


def test_cache_keeps_lengths_when_asked():
    assert TextCache(Counting()).features(["four"], normalize=False)[0, 0] == 4


def test_features_cached_in_inference_mode_serve_training():
    cache = TextCache(Encoder("demo"))
    with torch.inference_mode():
        cache.features(["a dog", "a cat"])
    weight = torch.ones(2, 128, requires_grad=True)
    (cache.features(["a cat", "a dog"]) * weight).sum().backward()
    assert torch.allclose(weight.grad.norm(dim=-1), torch.ones(2))
