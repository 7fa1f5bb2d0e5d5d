"""Points in groups that share a context."""

from __future__ import annotations

import pytest
import torch

from pyro_pcflow.transforms.grouping import Groups

SHAPES = [
    ((), None),
    ((5,), None),
    ((4, 5), (4, 1)),
    ((4, 5), (1, 5)),
    ((4, 5), (5,)),
    ((4, 5), ()),
    ((2, 3, 5), (2, 1, 5)),
    ((2, 3, 5), (3, 1)),
    ((2, 3), (2, 3)),
    ((0, 3), (1, 3)),
    ((0, 3), (0, 1)),
]


@pytest.mark.parametrize(("batch", "contexts"), SHAPES)
def test_each_point_lies_in_the_group_of_its_context(batch, contexts):
    points = torch.randn(*batch, 3)
    groups = Groups(torch.Size(batch), None if contexts is None else torch.Size(contexts))
    gathered = groups.gather(points)
    assert gathered.shape == (groups.count, groups.size, 3)
    assert torch.equal(groups.scatter(gathered), points)
    assert torch.equal(groups.scatter(gathered[..., 0]), points[..., 0])
    if contexts is None:
        assert groups.count == 1
        assert groups.contexts(None) is None
        return
    context = torch.arange(float(torch.Size(contexts).numel())).view(*contexts, 1)
    of_group = groups.contexts(context)
    assert of_group.shape == (groups.count, 1)
    assert torch.equal(groups.scatter(of_group.expand(-1, groups.size)), context.squeeze(-1).expand(batch))
