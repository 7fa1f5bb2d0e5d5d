"""Malicious files: each ends in the one named error, soon and in little memory.

All of them are made here, from valid files of kilobytes. They are read in a forked child that may allocate one
gigabyte, and that an alarm ends if it hangs, as code in C would not notice a Python exception.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import resource
import shutil
import signal
import socket
import struct
import time
import traceback
import warnings
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from pyro_pcflow.data import MappedClouds, load_clouds
from pyro_pcflow.metrics.report import Report
from pyro_pcflow.ops.array_files import read_array
from pyro_pcflow.ops.reading import printable
from pyro_pcflow.serialization.files import VERSION
from pyro_pcflow.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the alarm needs a child of its own")

MOST_BYTES, MOST_SECONDS, ALARM = 1 << 30, 5, 20
# What a parser says when the memory that it may have is not enough: an error, but no guard.
OUT_OF_MEMORY = ("MemoryError", "not enough memory", "can't allocate", "Cannot allocate")


# Running them.


def attempt(read, path):
    """The error of a read, as words, and the seconds of the processor that it took."""
    start = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as caught:
            # Recorded rather than raised: a reader that refuses whatever is raised would hide it.
            warnings.simplefilter("always")
            try:
                read(path)
                outcome = ("nothing", "no error at all")
            except (ValueError, FileNotFoundError, FileExistsError) as error:
                outcome = ("named", str(error))
        if caught:
            outcome = ("warned", str(caught[0].message))
    except BaseException:
        outcome = ("other", traceback.format_exc(limit=-2))
    return (*outcome, time.process_time() - start)


def run_in_children(cases):
    """Read every file, several in a child, and go on in another one where a child has died."""
    results = {}
    names = list(cases)
    while len(results) < len(names):
        pending = names[len(results) :]
        source, sink = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException), os.fdopen(sink, "wb") as pipe:
                torch.set_num_threads(1)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # an exception would wait for code in C
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, resource.RLIM_INFINITY))
                for name in pending:
                    signal.alarm(ALARM)
                    pickle.dump(attempt(*cases[name]), pipe)
                    pipe.flush()
                code = 0
            os._exit(code)
        os.close(sink)
        with os.fdopen(source, "rb") as pipe:
            for name in pending:
                try:
                    results[name] = pickle.load(pipe)
                except EOFError:
                    break
        status = os.waitpid(child, 0)[1]
        if len(results) < len(names) and status:
            results[names[len(results)]] = ("dead", f"the process ended with {status}", 0.0)
    return results


def complaints(cases):
    """What is wrong with how the cases end, one line for each."""
    found = []
    for name, (kind, text, seconds) in run_in_children(cases).items():
        path = cases[name][1]
        if kind != "named":
            found.append(f"{name}: {kind}: {text}")
            continue
        # A run with other settings is named by its folder.
        if printable(path.name) not in text and printable(path.parent) not in text:
            found.append(f"{name}: does not name the file: {text}")
        if len(text) > 1200 or "\n" in text or text.encode("utf-8", "replace").decode() != text:
            found.append(f"{name}: no line to print: {text[:300]!r}")
        if any(words in text for words in OUT_OF_MEMORY):
            found.append(f"{name}: took all of its memory first: {text}")
        if seconds > MOST_SECONDS:
            found.append(f"{name}: took {seconds:.1f} s")
    return found


class Cases(dict):
    """Names to a reader and the path of a file, each file in a folder of its own."""

    def __init__(self, root, read):
        super().__init__()
        self.root, self.read = root, read

    def add(self, name, data, file, read=None):
        """Write a file, or have a function put something at its path."""
        folder = self.root / str(len(self))
        folder.mkdir()
        path = folder / file
        if callable(data):
            data(path)
        else:
            path.write_bytes(data)
        assert name not in self
        self[name] = (read or self.read, path)


def loop(path):
    path.symlink_to(path.name)


def bind(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket has a hundred bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


PLACES = {
    "a pipe": os.mkfifo,
    "a socket": bind,
    "a folder": os.mkdir,
    "a loop of links": loop,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "nothing": lambda path: None,
}


# Torch files, whole and in parts.


def saved(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def parts_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(parts, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return stream.getvalue()


def changed(content, *path, to=None, drop=False):
    """A copy of nested dicts in which one entry is another, or is missing."""
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return content


def with_pickle(data, text):
    parts = parts_of(data)
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    return packed({**parts, name: text})


def calling(module, name, arguments):
    """A pickle that calls a function; the arguments are opcodes."""
    return b"\x80\x02c" + module + b"\n" + name + b"\n(" + arguments + b"tR."


def number(value):
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tensor_pickle(numel=10**12, offset=0, size=(3,), stride=(1,), kind=b"FloatStorage"):
    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage += number(numel) + b"tQ"
    rest = number(offset) + numbers(size) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tRs."


def doubled(levels):
    """A list that holds a list twice, which holds another one twice, and so on."""
    text = b"\x80\x02]q\x00"
    for level in range(levels):
        text += b"]q" + bytes([level + 1]) + b"(h" + bytes([level]) + b"h" + bytes([level]) + b"e"
    return text + b"."


PICKLES = {
    "a byte array of any size": calling(b"__builtin__", b"bytearray", number(10**10)),
    "a byte array, by its new name": calling(b"builtins", b"bytearray", number(10**10)),
    "a command": calling(b"os", b"system", b"X\x04\x00\x00\x00true"),
    "a command by another name": calling(b"posix", b"system", b"X\x04\x00\x00\x00true"),
    "eval": calling(b"__builtin__", b"eval", b"X\x011\x00\x00"),
    "a set": calling(b"__builtin__", b"set", b"]"),
    "a counter": calling(b"collections", b"Counter", b"]"),
    "an encoder": calling(b"_codecs", b"encode", b"X\x01\x00\x00\x00aX\x06\x00\x00\x00latin1"),
    "a tensor of metadata": calling(b"torch._utils", b"_rebuild_meta_tensor_no_storage", b"NN)\x89"),
    "a wrapper": calling(b"torch._utils", b"_rebuild_wrapper_subclass", b"N"),
    "a class by the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "an instance": b"(ios\nsystem\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "no bytes": b"",
    "no end": b"\x80\x02}",
    "an unknown opcode": b"\x80\x02\xff.",
    "an empty stack": b"\x80\x02t.",
    "a memory that is empty": b"\x80\x02h\x05.",
    "text of a wrong length": b"\x80\x02X\xff\xff\xff\x7fab.",
    "a number of a wrong length": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "a number of 10,000 digits": b"I" + b"9" * 10_000 + b"\n.",
    "100,000 lists in each other": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a dict of 100,000 lists in each other": b"\x80\x02}U\x06format" + b"]" * 100_000 + b"a" * 99_999 + b"s.",
    "2 to the 60 lists": doubled(60),
    "2 to the 60 lists in a dict": doubled(60).replace(b"\x80\x02", b"\x80\x02}U\x06format")[:-1] + b"s.",
    "a list of itself": b"\x80\x02}U\x06format]q\x00h\x00as.",
    "a number": b"\x80\x02K\x01.",
    "a pickle of five megabytes": b"\x80\x02X" + struct.pack("<I", 5 << 20) + b"a" * (5 << 20) + b".",
    "a dict with methods": b"\x80\x02ccollections\nOrderedDict\n)R}U\x05itemsK\x01sb.",
    "keys that are tuples": b"\x80\x02}K\x01K\x02\x86K\x03s.",
    "a storage of 10^12 numbers": tensor_pickle(),
    "a storage that is not there": tensor_pickle(numel=3).replace(
        b"X\x01\x00\x00\x000X\x03", b"X\x01\x00\x00\x009X\x03"
    ),
    "a tensor past its storage": tensor_pickle(numel=3, size=(10**9,)),
    "a tensor of 10^12 equal numbers": tensor_pickle(numel=3, size=(10**12,), stride=(0,)),
    "a tensor before its storage": tensor_pickle(numel=3, offset=-(10**6)),
    "a negative size": tensor_pickle(numel=3, size=(-3,)),
    "a negative stride": tensor_pickle(numel=3, stride=(-1,)),
    "sizes whose product overflows": tensor_pickle(numel=3, size=(2**62, 2**62), stride=(0, 0)),
    "an offset that overflows": tensor_pickle(numel=3, offset=2**62),
    "a storage of another type": tensor_pickle(numel=3, kind=b"ComplexDoubleStorage"),
    "a storage of no type": tensor_pickle(numel=3, kind=b"serialization"),
}


def archives(data):
    """Damaged archives of a valid torch file."""
    parts = parts_of(data)
    first = next(name for name in parts if name.endswith("/data/0"))
    names = next(name for name in parts if name.endswith("data.pkl"))
    flipped = bytearray(data)
    flipped[data.index(parts[first][:16]) + 5] ^= 16
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(first, bytes(len(parts[first])))
    shared = io.BytesIO()
    with zipfile.ZipFile(shared, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
        for count in range(200):
            other = copy.copy(archive.getinfo(first))
            other.filename = f"archive/data/{100 + count}"
            archive.filelist.append(other)
    folder = io.BytesIO()
    with zipfile.ZipFile(folder, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
        archive.getinfo(first).external_attr = 0x10
    return {
        "empty": b"",
        "words": b"hello",
        "weights that are a folder": folder.getvalue(),
        "another archive": packed({"a.txt": b"hello"}),
        "an archive of nothing": packed({}),
        "a pickle alone": pickle.dumps({"format": "pyro-pcflow"}),
        "an array": npz(points=np.zeros((3, 3))),
        "compressed": packed(parts, zipfile.ZIP_DEFLATED),
        "a bomb": packed({**parts, first: bytes(1 << 26)}, zipfile.ZIP_DEFLATED),
        "compressed by another method": packed(parts, zipfile.ZIP_LZMA),
        "a flipped bit": bytes(flipped),
        "half of it": data[: len(data) // 2],
        "without its directory": data[: data.index(b"PK\x01\x02")],
        "cut at its end": data[:-1],
        "a part twice": twice.getvalue(),
        "parts that share bytes": shared.getvalue(),
        "two pickles": packed({**parts, "other/data.pkl": parts[names]}),
        "a pickle too deep": packed({name.replace("/", "/a/", 1): part for name, part in parts.items()}),
        "no pickle": packed({name: part for name, part in parts.items() if name != names}),
        "a part that is missing": packed({name: part for name, part in parts.items() if name != first}),
        "a part that is short": packed({**parts, first: parts[first][:-4]}),
        "another order of bytes": packed({**parts, names.replace("data.pkl", "byteorder"): b"middle"}),
        "of another version": packed({**parts, names.replace("data.pkl", "version"): b"99\n"}),
        "a script": packed({**parts, names.replace("data.pkl", "constants.pkl"): b"\x80\x02)."}),
    }


# Models.


def described(name, **config):
    """An object among plain values."""
    return {"class": name, "config": config}


def nested(levels):
    part = described("LULinear", point_dim=3)
    for _ in range(levels):
        part = described("CouplingStack", parts=[part])
    return [part]


FLOW = {
    "num_couplings": [3_000_000, 2**20, 10**9, 10**18, 2**70, -1, 0, 2, 4, "3", 3.5, float("nan"), None, [3]],
    "point_dim": [10**9, 10**18, -3, 0, 1, 2, "3", 3.0, None],
    "hidden_dims": [[], [10**9], [10**9] * 3, [8] * 50_000, [10**18], [-8], [8.5], "88", 8, None, [[8]], [8, 8]],
    "context_dim": [10**12, 1, -1, "a"],
    "num_frequencies": [10**9, 10**18, 2, -1, "3", 2.5],
    "base": ["conditional", "mixture", 5, float("nan"), ["normal"]],
    "num_components": [10**9, 10**18, 0, "3", 2.5],
    "min_width": [-1.0, float("nan"), "1"],
    "max_width": [-1.0, float("nan"), "1"],
    "base_hidden_dims": [[10**9], [10**18], [8.5], "88"],
    "masks": [[], [[True]], [[[True] * 1000] * 1000] * 1000, "no", 7, [[]]],
    "activation": ["exec", 3, []],
    "max_log_scale": [float("nan"), -1.0, "1", float("inf") - float("inf")],
    "coupling": [
        "spline",
        3,
        ["affine"],
        described("os.system", command="true"),
        described("Elementwise"),
        described("Affine", max_log_scale=float("nan")),
        described("Affine", no_such=1),
        described("PointCloudFlow", num_couplings=10**6),
        described("Standardize", point_dim=10**6),
        {"class": ["Affine"], "config": {}},
        {"class": "Affine", "config": 3},
        {"class": "Affine", "config": {}, "more": 1},
        [described("Affine")] * 200_000,
        [described("Conditioner", input_dim=1000, output_dims=[1000], hidden_dims=[1000])] * 1000,
    ],
    "backend": ["rm", 3],
    "no_such": [1],
    "separate_networks": [True],
    "act_norm": [True],
    "lu_linear": [True],
}
MODELS = {
    "PointCloudVAE": {
        "latent_dim": [10**9, 2**62, -1, "4", 3],
        "num_classes": [10**12, -1, 1],
        "num_flows": [10**8, 0, 2],
        "decoder": [{"num_couplings": 10**7}, {"hidden_dims": [10**12]}, "x", [1], {"decoder": {}}, {3: 4}],
        "encoder": [{"point_dims": [10**9]}, {"point_dims": [1] * 10_000}, {"num_frequencies": 10**12}],
        "prior": ["other", 3],
        "prior_options": [{"num_couplings": 10**9}, {"context_dim": 3}],
    },
    "MixtureOfFlows": {"num_flows": [10**8, 3, -1, 2.0]},
    "AutoDecoder": {"num_clouds": [10**10, 2**62, 0, 6]},
    "CouplingStack": {
        "parts": [
            [],
            3,
            ["LULinear"],
            [described("Affine")],
            [described("LULinear", point_dim=2)],
            [described("LULinear", point_dim=3)] * 3,
            [described("LULinear", point_dim=10**5)] * 2,
            [described("Standardize", point_dim=3)] * 100_000,
            nested(5),
            nested(20),
        ]
    },
}


def small_model(name):
    torch.manual_seed(0)
    small = {"num_couplings": 2, "hidden_dims": [4]}
    if name == "PointCloudFlow":
        return pcf.PointCloudFlow(3, num_couplings=3, hidden_dims=[8], act_norm=False)
    if name == "MixtureOfFlows":
        return pcf.MixtureOfFlows(2, 3, **small)
    if name == "AutoDecoder":
        return pcf.models.AutoDecoder(5, 3, 2, decoder=small, prior="normal")
    if name == "CouplingStack":
        return pcf.transforms.CouplingStack([pcf.transforms.lu_linear(3), pcf.transforms.act_norm(3)])
    return pcf.PointCloudVAE(3, 4, decoder=small, prior_options=small, encoder={"point_dims": [4], "hidden_dims": [4]})


def content_of(name, folder):
    pcf.save(small_model(name), folder / name)
    return torch.load(folder / name, weights_only=True)


def model_cases(root):
    cases = Cases(root, pcf.load)
    flow = content_of("PointCloudFlow", root)
    valid = (root / "PointCloudFlow").read_bytes()
    for key, values in FLOW.items():
        for index, value in enumerate(values):
            cases.add(f"flow, {key}, {index}", saved(changed(flow, "config", key, to=value)), "model.pt")
    for name, options in MODELS.items():
        content = content_of(name, root)
        for key, values in options.items():
            for index, value in enumerate(values):
                cases.add(f"{name}, {key}, {index}", saved(changed(content, "config", key, to=value)), "model.pt")
    weight = next(key for key in flow["state_dict"] if key.endswith("hidden.0.weight"))
    tensor, units = flow["state_dict"][weight], "transform.parts.3._extra_state"
    assert units in flow["state_dict"]
    weights = {
        "of another shape": tensor[:-1].clone(),
        "of equal numbers": tensor.new_zeros(1, 1).expand(tensor.shape[0], 10**12),
        "of its shape, of equal numbers": tensor.new_zeros(1, 1).expand(2**20, 2**20),
        "of another type": tensor.double(),
        "of whole numbers": tensor.long(),
        "complex": tensor.to(torch.complex64),
        "sparse": tensor.to_sparse(),
        "words": "weights",
        "nothing": None,
        "a list": tensor.tolist(),
        "a dict": {"fitted": True},
    }
    for name, value in weights.items():
        cases.add(f"a weight, {name}", saved(changed(flow, "state_dict", weight, to=value)), "model.pt")
    for name, value in {"words": "x", "a tensor": tensor, "other keys": {"a": True}, "a list": {"fitted": [1]}}.items():
        cases.add(f"units, {name}", saved(changed(flow, "state_dict", units, to=value)), "model.pt")
    cases.add("a weight less", saved(changed(flow, "state_dict", weight, drop=True)), "model.pt")
    cases.add("a weight more", saved(changed(flow, "state_dict", "more", to=tensor)), "model.pt")
    cases.add("a list more", saved(changed(flow, "state_dict", "more", to=[0.5] * 100_000)), "model.pt")
    cases.add("weights as a list", saved(changed(flow, "state_dict", to=[*flow["state_dict"].values()])), "model.pt")
    deep = {"a": {}}
    for _ in range(60):
        deep = {"a": deep}
    heads = {
        "class": [["PointCloudFlow"], {"a": 1}, 3, "Linear", "__import__", "x" * 10**6, None, "\ud800"],
        "version": [True, -1, 0, VERSION + 1, 2**70, 1.0, float("nan"), "1", None, [1]],
        "format": ["another", None, 3, [1]],
        "config": [None, [], "x", 3, {}, deep, {3: 4}, {"": 1}, {"self": 1}],
        "state_dict": [None, [], "x", {}, {3: tensor}],
        "frozen": [["no such"], "x", [3], [[]], {"a": 1}],
        "training": ["yes", None, 1],
    }
    for key, values in heads.items():
        for index, value in enumerate(values):
            cases.add(f"{key}, {index}", saved(changed(flow, key, to=value)), "model.pt")
    for key in ("class", "version", "format", "config", "state_dict"):
        cases.add(f"no {key}", saved(changed(flow, key, drop=True)), "model.pt")
    cases.add("a state_dict", saved(small_model("PointCloudFlow").state_dict()), "model.pt")
    cases.add("of an older torch", older(flow), "model.pt")
    for name, data in archives(valid).items():
        cases.add(f"archive, {name}", data, "model.pt")
    for name, text in PICKLES.items():
        cases.add(f"pickle, {name}", with_pickle(valid, text), "model.pt")
    for name, make in PLACES.items():
        cases.add(name, make, "model.pt")
    cases.add("a name that is no UTF-8", b"junk", os.fsdecode(b"m\xff\xfe.pt"))
    cases.add("no file of such a name", lambda path: None, os.fsdecode(b"m\xff\xfe.pt"))
    return cases


def older(content):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


# Runs.


def points():
    return torch.randn(64, 3, generator=torch.Generator().manual_seed(0))


def new_flow():
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[4])
    flow.normalize(points())
    return flow


OPTIONS = {"max_steps": 3, "batch_size": 16, "held_out": 0, "pictures": False, "device": "cpu"}


def resume(path):
    """Continue the run of a damaged file, and see that the module is left as it was where that is refused."""
    flow = new_flow()
    before = copy.deepcopy(flow.state_dict())
    try:
        fit(flow, points(), out=path.parent, resume=True, **OPTIONS)
    except (ValueError, FileNotFoundError):
        after = flow.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items() if isinstance(value, torch.Tensor))
        raise


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run that has ended."""
    folder = tmp_path_factory.mktemp("run") / "run"
    fit(new_flow(), points(), out=folder, **OPTIONS)
    return folder


def in_run(run, name, data):
    """What puts a run with one other file at a path."""

    def make(path):
        shutil.copytree(run, path.parent, dirs_exist_ok=True)
        path.unlink()
        if callable(data):
            data(path)
        else:
            path.write_bytes(data)

    return make


def checkpoint_cases(root, run):
    cases = Cases(root, resume)

    def add(name, data):
        cases.add(name, in_run(run, name, data), "checkpoint.pt")

    valid = (run / "checkpoint.pt").read_bytes()
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    vector = state["optimizer"]["state"][0]["exp_avg"]
    generator = state["random"]["cpu"]
    weight = next(iter(state["averages"]))
    buffer = next(key for key in state["module"] if key.endswith("scale"))
    tensor = state["averages"][weight]
    numbers = {
        ("version",): [0, -1, True, "1", None, 99, 1.0, [1]],
        ("format",): ["other", None, 3],
        ("step",): [-1, "3", 3.0, float("nan"), True, None, 10**30, 5, 2**62],
        ("seconds",): [float("nan"), float("inf"), -1.0, "x", None],
        ("scores",): [[], None, {"a": "b"}, {3: 1.0}, {"a": [1.0]}],
        ("pending",): ["x", 1, None, [True]],
        ("lr",): [float("nan"), "x", -1.0],
        ("hastened_at",): [float("nan"), "x", -1.0, 1],
        ("in_first_phase",): [1, "x", 0.5],
        ("window",): [[], [1.0], ["a", 1.0, 1], [float("nan"), 0.0, 0], [0.0, 0.0, -1], None, 3, [0.0, 0.0, 1.0]],
        ("random",): [{}, None, {"cpu": "x"}, {"gpu": generator}],
        ("random", "cpu"): [generator[:-1].clone(), torch.full_like(generator, 255), generator.float(), generator[:0]],
        ("module",): [None, {}, [], "x"],
        ("module", weight): [tensor[:-1].clone(), tensor.double(), tensor * float("nan"), "x", {"a": 1}, tensor.long()],
        ("module", buffer): [torch.ones(3), "x", None, torch.ones((), dtype=torch.float64)],
        ("module", "more"): [tensor],
        ("averages",): [None, {}, []],
        ("averages", weight): [tensor[:-1].clone(), tensor.double(), tensor * float("inf"), "x", None],
        ("averages", "more"): [tensor],
        ("optimizer",): [None, {}, {"state": {}}, {"state": []}, {"state": {1: {}}}, {"state": {0: {}, 1: {}}}],
        ("optimizer", "state", 0): [None, [], {"step": torch.tensor(3.0)}],
        ("optimizer", "state", 0, "exp_avg"): [
            vector[:1].clone(),
            vector.double(),
            vector * float("nan"),
            vector.new_zeros(1).expand(len(vector) + 1),
            vector.new_zeros(1).expand(2**40),
            vector[None],
            0.0,
        ],
        ("optimizer", "state", 0, "exp_avg_sq"): [vector[:1].clone(), -vector.abs() - 1, vector.long()],
        ("optimizer", "state", 0, "step"): [torch.tensor(-5.0), torch.tensor(float("nan")), torch.ones(3), 3, "x"],
        ("optimizer", "state", 0, "more"): [vector],
    }
    for path, values in numbers.items():
        for index, value in enumerate(values):
            add(f"{', '.join(map(str, path))}, {index}", saved(changed(state, *path, to=value)))
    # Those of an older format have not all.
    for key in state.keys() - {"lr", "pending", "hastened_at", "in_first_phase"}:
        add(f"no {key}", saved(changed(state, key, drop=True)))
    for key in ("exp_avg", "exp_avg_sq", "step"):
        add(f"no moments {key}", saved(changed(state, "optimizer", "state", 0, key, drop=True)))
    for name, data in archives(valid).items():
        add(f"archive, {name}", data)
    for name in ("a byte array of any size", "2 to the 60 lists in a dict", "a tensor of 10^12 equal numbers"):
        add(f"pickle, {name}", with_pickle(valid, PICKLES[name]))
    add("a model", (run / "model.pt").read_bytes())
    for name, make in PLACES.items():
        if name != "nothing":
            add(name, make)
    return cases


def configuration_cases(root, run):
    cases = Cases(root, resume)
    text = (run / "config.toml").read_bytes()
    settings = text.index(b"[settings]")
    configurations = {
        "empty": b"",
        "no UTF-8": text + b'\nname = "\xff\xfe"\n',
        "zeros": bytes(1000),
        "cut": text[: len(text) // 2] + b"=",
        "an extension of words": text.replace(b"[settings]", b'extended = ["x"]\n[settings]', 1),
        "an extension that is no list": b"extended = 3\n" + text,
        "an extension at no rate": b"extended = [{step = 1, seconds = 1.0, lr = nan, ended = true}]\n" + text,
        "a date of nobody": text + b"\n[mine]\nday = 1979-05-27\n",
        "a number for a table": b"settings = 3\n",
        "a list for a table": b"settings = [1, 2]\n" + b"data = []\nmodule = 1.5\n",
        "words for a table": b'settings = "x"\n',
        "a key twice": text[:settings] + b"[settings]\nlr = 1\nlr = 2\n",
        "deep lists": b"a = " + b"[" * 100_000 + b"]" * 100_000,
        "deep tables": b"a = " + b"{a=" * 50_000,
        "deep keys": b".".join([b"a"] * 500_000) + b" = 1\n",
        "deep quoted keys": b".".join([b'"="'] * 200_000) + b" = 1\n",
        "deep headers": b"[" + b".".join([b"a"] * 500_000) + b"]\n",
        "deep keys within a table": b'a = {b = "\\"", ' + b".".join([b"c"] * 400_000) + b" = 1}\n",
        "text of several lines": b"a = '''\n\"''', " + b".".join([b"c"] * 1000) + b" = 1\n",
        "a number of a million digits": b"a = " + b"9" * 1_000_000 + b"\n",
        "two megabytes": b"#" * (2 << 20) + b"\n" + text,
        "dates": text.replace(b"batch_size = 16", b"batch_size = 1979-05-27"),
        "not a number": text.replace(b"batch_size = 16", b"batch_size = nan"),
        "a list of a million": text.replace(b"batch_size = 16", b"batch_size = [" + b"1," * 400_000 + b"]"),
        "a settings table of lists": text.replace(b"batch_size = 16", b"batch_size = [[[1]]]"),
        **{name: make for name, make in PLACES.items() if name not in ("nothing", "a link to nothing")},
    }
    for name, data in configurations.items():
        cases.add(f"config, {name}", in_run(run, name, data), "config.toml", resume)
    line = b'{"step": 1, "seconds": 0.1, "loss": 1.0}\n'
    metrics = {
        "a word": b"hello\n" + line,
        "deep": b"[" * 100_000 + b"\n" + line,
        "a list": b"[1]\n" + line,
        "no step": b'{"loss": 1.0}\n' + line,
        "a step of words": b'{"step": "1"}\n' + line,
        "zeros": bytes(1000) + b"\n" + line,
        "no UTF-8": b'{"step": 1, "a": "\xff"}\n' + line,
        **{name: PLACES[name] for name in ("a pipe", "a folder", "a link to a device")},
    }
    for name, data in metrics.items():
        cases.add(f"metrics, {name}", in_run(run, name, data), "metrics.jsonl", resume)
    return cases


# Clouds.


def npy_header(text):
    text = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def shaped(shape, descr="<f4"):
    return npy_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")


OBJ_CORNERS = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"
PLY = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"


def glb(nodes, roots=(0,)):
    """A scene of nodes, with one triangle as its mesh 0."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()
    text = (
        '{"asset": {"version": "2.0"}, "buffers": [{"byteLength": 36}], '
        '"bufferViews": [{"buffer": 0, "byteLength": 36}], '
        '"accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}], '
        '"meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}], '
        f'"scene": 0, "scenes": [{{"nodes": [{", ".join(map(str, roots))}]}}], "nodes": [{", ".join(nodes)}]}}'
    ).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(corners), len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(corners), b"BIN\0") + corners


ARRAYS = {
    "no numbers": b"",
    "words": b"hello" * 40,
    "a shape of 10^18": shaped((10**9, 10**9)),
    "a shape whose size overflows": shaped((2**40, 2**40, 2**40)),
    "a shape whose size overflows to nothing": shaped((2**32, 2**32, 4)),
    "a negative shape": shaped((-1, 3)),
    "a shape of words": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': ('a', 3), }"),
    "a shape of True": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': 'aa', }"),
    "a type of 10^9 bytes": shaped((3, 3), "V1000000000"),
    "a type that is none": shaped((3, 3), "hello"),
    "deep brackets": npy_header("(" * 9000 + ")" * 9000),
    "many signs": npy_header("-" * 9000 + "1"),
    "a power": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9, 3), }"),
    "no dict": npy_header("[1, 2, 3]"),
    "a header of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
    "a header of another version": b"\x93NUMPY\x09\x00" + b"\x00" * 100,
    "objects": npy(np.array([{}, None]), allow_pickle=True),
    "cut": npy(np.zeros((9, 9, 3)))[:-1],
    "longer": npy(np.zeros((9, 9, 3))) + b"x",
    "words as numbers": npy(np.full((3, 4, 3), "x")),
    "complex": npy(np.zeros((3, 4, 3), complex)),
    "a date": npy(np.zeros((3, 4, 3), "datetime64[s]")),
}
ARCHIVES = {
    "no archive": b"hello" * 40,
    "a bomb": packed({"points.npy": shaped((2**22, 8)) + bytes(2**27)}, zipfile.ZIP_DEFLATED),
    "a bomb within a bomb": packed({"points.npy": packed({"a": bytes(2**26)}, zipfile.ZIP_DEFLATED)}),
    "objects": npz(points=np.array([{}])),
    "two arrays": npz(a=np.zeros((3, 4, 3)), b=np.zeros((3, 4, 3))),
    "no arrays": packed({}),
    "cut": npz(points=np.zeros((50, 3)))[:-40],
    "a flipped bit": npz(points=np.arange(600.0).reshape(50, 4, 3)).replace(np.float64(7).tobytes(), bytes(8), 1),
    "a huge shape": packed({"points.npy": shaped((10**9, 10**9))}),
    "words": npz(points=np.array(["a", "b"])),
}


def cloud_cases(root):
    cases = Cases(root, lambda path: load_clouds(path, 16))
    files = {
        "one.off": b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4000000 " + b"0 1 2 0 " * 1_000_000 + b"\n",
        "one.obj": OBJ_CORNERS + b"f " + b"1 2 3 " * 2_000_000 + b"\n",
        "slashes.obj": OBJ_CORNERS + b"f " + b"1/1/1 2/2/2 3/3/3 " * 700_000 + b"\n",
        "tabs.obj": OBJ_CORNERS + b"f\t" + b"1\t2\t3\t" * 1_000_000 + b"\n",
        "negative.off": b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n-4 0 1 2 0\n",
        "promised.off": b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n2000000000 0 1 2\n",
        "counts.off": b"OFF\n" + b"9" * 5000 + b" 1 0\n",
        "index.obj": OBJ_CORNERS + b"f 1 2 99999999999999999999\n",
        "header.ply": PLY.encode() + b"".join(b"property float p%d\n" % i for i in range(100_000)) + b"end_header\n1\n",
        "elements.ply": b"ply\nformat ascii 1.0\n"
        + b"".join(b"element v%d 0\nproperty float x\n" % i for i in range(100_000))
        + b"end_header\n",
        "comments.ply": b"ply\nformat ascii 1.0\n" + b"comment x\n" * 100_000 + PLY[21:].encode() + b"end_header\n",
        "list.ply": PLY.replace("ascii", "binary_little_endian").encode()
        + b"element face 1\nproperty list uint int vertex_indices\nend_header\n"
        + np.eye(3, dtype="<f4").tobytes()
        + struct.pack("<I3i", 2**32 - 1, 0, 1, 2),
        "nodes.glb": glb(['{"mesh": 0}'] * 120_000, range(120_000)),
        "children.glb": glb([f'{{"children": [{i + 1}]}}' for i in range(50_000)]),
        "deep.glb": glb(["[" * 100_000 + "]" * 100_000]),
        "wide.csv": b"1," * 4_000_000 + b"1\n",
        "wide.txt": b"1 " * 4_000_000 + b"\n",
        "words.xyz": b"hello " * 1_000_000,
        "one_word.txt": b"1" * 4_000_000,
        "digits.csv": b"1" * 60_000 + b"," + b"2" * 5000 + b"\n",
        "zeros.txt": bytes(4_000_000),
        "huge.csv": b"1e999,2,3\n",
    }
    for name, data in files.items():
        cases.add(name, data, name)
    for name, data in ARRAYS.items():
        cases.add(f"npy, {name}", data, "a.npy")
        cases.add(f"mapped, {name}", data, "a.npy", MappedClouds)
        if name not in ("words as numbers", "complex", "a date"):  # the readers behind it say more about these
            cases.add(f"samples, {name}", data, "a.npy", read_array)
    for name, data in ARCHIVES.items():
        cases.add(f"npz, {name}", data, "a.npz")
        if name not in ("words",):
            cases.add(f"samples in an archive, {name}", data, "a.npz", read_array)
    bad = np.zeros((50, 40, 3), np.float32)
    bad[49, 39, 2] = np.nan
    cases.add("mapped, not a number at its end", npy(bad), "a.npy", lambda path: MappedClouds(path).check_finite())
    for kind in ("obj", "off", "ply", "stl", "glb", "csv", "npy", "npz"):
        for name, make in PLACES.items():
            if name != "a folder":
                cases.add(f"{name}, {kind}", make, f"a.{kind}")
    for name, make in PLACES.items():
        cases.add(f"samples, {name}", make, "a.npy", read_array)
        cases.add(f"mapped, {name}", make, "a.npy", MappedClouds)
    for kind in ("obj", "csv", "npy", "npz", "gltf"):
        cases.add(f"a name that is no UTF-8, {kind}", b"\x00", os.fsdecode(b"a\xff\xfe." + kind.encode()))
    cases.add("a mapped name that is no UTF-8", b"", os.fsdecode(b"a\xff.npy"), MappedClouds)
    cases.add("samples with a name that is no UTF-8", b"", os.fsdecode(b"a\xff.npy"), read_array)
    reports = {
        "empty": b"",
        "deep": b'{"schema": ' + b"[" * 200_000,
        "no UTF-8": b'{"schema": "\xff"}',
        "another": b'{"schema": "other"}',
        "a version of lists": b'{"schema": "pyro-pcflow report", "version": [[1]]}',
        "no fields": b'{"schema": "pyro-pcflow report", "version": 1}',
        "other fields": b'{"schema": "pyro-pcflow report", "version": 1, "likelihood": 3, "name": 1, "protocol": [], '
        b'"metrics": [], "failed": 3, "train": 1, "train_sha256": 1, "null": 1}',
        **PLACES,
    }
    for name, data in reports.items():
        cases.add(f"report, {name}", data, "report.json", Report.from_json)
    return cases


# The tests.


def check(cases, least):
    assert len(cases) >= least
    found = complaints(cases)
    assert not found, f"{len(found)} of {len(cases)}:\n" + "\n".join(found)


@pytest.mark.slow
def test_models(tmp_path):
    check(model_cases(tmp_path), 200)


@pytest.mark.slow
def test_checkpoints(tmp_path, run_folder):
    check(checkpoint_cases(tmp_path, run_folder), 100)


@pytest.mark.slow
def test_configurations_and_metrics(tmp_path, run_folder):
    check(configuration_cases(tmp_path, run_folder), 30)


@pytest.mark.slow
def test_clouds(tmp_path):
    check(cloud_cases(tmp_path), 150)


def test_the_valid_files_are_read(tmp_path, run_folder):
    """Of which the others are made: that they fail says something."""
    for name in ["PointCloudFlow", *MODELS]:
        content = content_of(name, tmp_path)
        (tmp_path / "again.pt").write_bytes(saved(content))
        assert type(pcf.load(tmp_path / "again.pt")).__name__ == name
        (tmp_path / "again.pt").write_bytes(packed(parts_of(saved(content))))
        assert type(pcf.load(tmp_path / "again.pt")).__name__ == name
    state = torch.load(run_folder / "checkpoint.pt", weights_only=True)
    copied = tmp_path / "run"
    shutil.copytree(run_folder, copied)
    (copied / "checkpoint.pt").write_bytes(saved(OrderedDict(state)))
    resume(copied / "checkpoint.pt")
    assert RunFolder  # the class whose files these are


def test_options_of_the_optimizer_are_those_of_the_training(tmp_path, run_folder):
    """Whatever a checkpoint says of them."""
    ends = []
    for betas in ((0.9, 0.999), (0.1, 0.2)):
        folder = tmp_path / str(betas)
        shutil.copytree(run_folder, folder)
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        group = {"betas": betas, "amsgrad": betas[0] < 0.5, "weight_decay": 1 - betas[1], "lr": 0.1, "params": [0]}
        state["optimizer"]["param_groups"] = [group]
        (folder / "checkpoint.pt").write_bytes(saved(state))
        flow = new_flow()
        result = fit(flow, points(), out=folder, resume=True, **{**OPTIONS, "max_steps": 6})
        assert result.steps == 6
        ends.append(flow.state_dict())
    assert all(torch.equal(one, ends[1][key]) for key, one in ends[0].items() if isinstance(one, torch.Tensor))


def damaged(data, rng):
    """Flip bits, cut, or repeat a piece of a file."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data)))
        kind = rng.integers(4)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data = data[: max(at, 1)]
        elif kind == 2:
            data[at:at] = data[at : at + int(rng.integers(1, 60))]
        else:
            data[at : at + 4] = [b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff"][rng.integers(3)]
    return bytes(data)


@pytest.mark.parametrize("rounds", [40, pytest.param(3000, marks=pytest.mark.exhaustive)])
def test_models_damaged_at_random(tmp_path, rounds):
    """Every change of a model's bytes is noticed: the checksums see those of the weights."""
    pcf.save(small_model("PointCloudFlow"), tmp_path / "model.pt")
    whole, rng = (tmp_path / "model.pt").read_bytes(), np.random.default_rng(rounds)
    before = pcf.load(tmp_path / "model.pt").state_dict()
    cases = Cases(tmp_path, load_or_equal(before))
    for number in range(rounds):
        cases.add(f"round {number}", damaged(whole, rng), "model.pt")
    check(cases, rounds)


def load_or_equal(before):
    """Read a model, and count one that is what it was before as refused: padding and names of parts say nothing."""

    def read(path):
        after = pcf.load(path).state_dict()
        for key, value in before.items():
            equal = torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]
            assert equal, f"{key} was changed, and nothing said so"
        raise ValueError(f"{path.name} is as it was")

    return read
