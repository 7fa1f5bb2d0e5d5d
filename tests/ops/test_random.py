from __future__ import annotations

import pytest
import torch

from pyro_pcflow.ops.random import restored_generators, seeded, seeded_generator

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", [None, CPU])
def test_a_block_is_drawn_from_its_seed_and_leaves_no_trace(device):
    before = torch.random.get_rng_state()
    drawn = []
    for seed in (7, 7, 8):
        with seeded(seed, device):
            drawn.append(torch.randn(3))
        torch.testing.assert_close(torch.random.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0], torch.randn(3, generator=torch.Generator().manual_seed(7)))


def test_a_block_leaves_no_trace_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), restored_generators():
        _ = torch.randn(3)[0] / (1 // 0)
    torch.testing.assert_close(torch.random.get_rng_state(), before)


def test_a_generator_has_a_seed_and_a_purpose():
    def draw(seed, purpose):
        return torch.randn(3, generator=seeded_generator(seed, purpose)).tolist()

    assert draw(0, "split") == draw(0, "split")
    assert len({tuple(draw(seed, purpose)) for seed in (0, 1) for purpose in ("split", "epoch 0")}) == 4
    # The batches of runs that are resumed follow from it.
    assert seeded_generator(3, "epoch 0").initial_seed() == 3743233683916017302
