"""The second half of the demo, short."""

from __future__ import annotations

import pytest

from benchmarks import demo


@pytest.mark.exhaustive
def test_the_demo_trains_on_bodies(tmp_path, capsys):
    demo.train_bodies(tmp_path / "bodies", seconds=0.5)
    assert "nats per cloud" in capsys.readouterr().out
    assert {"samples.png", "reconstructions.png", "walk.png", "walk.webp", "walk.html"} <= {
        path.name for path in (tmp_path / "bodies").iterdir()
    }
