"""The protocol of a report: what it holds, and when two differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import torch

import pyro_pcflow as pcf
from pyro_pcflow.metrics import Protocol


def test_protocol(report):
    protocol = report.protocol
    assert (protocol.data, protocol.split, protocol.units) == ("noise | x", "test", "metres")
    content = torch.randn(5, 12, 3, generator=torch.Generator().manual_seed(3)).numpy().tobytes()
    assert protocol.sha256 == hashlib.sha256(b"float32 5x12x3\n" + content).hexdigest()
    assert protocol.versions == {"pyro_pcflow": pcf.__version__, "torch": torch.__version__, "numpy": np.__version__}
    assert protocol.grid["resolution"] == 28
    assert len(protocol.grid["low"]) == 3


def test_every_field_of_the_protocol_counts(report):
    names = {field.name for field in dataclasses.fields(Protocol)}
    assert names == set(report.protocol.differences(Protocol(*["?"] * len(names))))


def test_protocols_of_one_content_agree(report):
    assert report.protocol.differences(Protocol.from_dict(json.loads(json.dumps(report.protocol.to_dict())))) == {}
