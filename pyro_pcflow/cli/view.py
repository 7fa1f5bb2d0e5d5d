"""`pcflow view`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.data_options import add_data_options, folder_options_of, selection_of
from pyro_pcflow.cli.shared import (
    ALL,
    SCORE,
    Result,
    add_device,
    add_json,
    add_seed,
    check_exists,
    check_new_file,
    choose_split,
    given,
    model_file,
    note,
    whole,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyro_pcflow.data.drawing import StoredCloud

__all__ = ["add_arguments", "check", "run"]

SUFFIXES_OF_MODELS = (".pt",)
POINTS_OF_A_CLOUD = 20_000
CLOUDS, SAMPLES_OF_MANY = 6, 6
# What a training leaves of its data beside samples.
PICTURES = ("samples.png", "reconstructions.png")
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ margin: 0; font-family: system-ui, sans-serif; display: flex; flex-wrap: wrap; min-height: 100vh }}
iframe {{ flex: 2 1 32rem; min-height: 90vh; border: 0 }}
aside {{ flex: 1 1 20rem; padding: 1rem }}
figure {{ margin: 0 0 1rem }}
img {{ max-width: 100% }}
</style>
</head>
<body>
<iframe title="{title}, interactive" sandbox="allow-scripts" srcdoc="{page}"></iframe>
<aside>{figures}</aside>
</body>
</html>
"""
FIGURE = '<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Show clouds in the browser, on a page where they turn under the mouse: those of a file or a folder, in the "
        "colours of their scores if `pcflow score` wrote them, or samples of a run, beside the pictures of its "
        "training. The page needs no network."
    )
    parser.epilog = "example:\n  pcflow view runs/scan --out scan.html --no-open"
    parser.add_argument("path", type=Path, metavar="FILE_OR_RUN", help="clouds, or a run folder or model file")
    add_data_options(parser, features=False)
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--num-clouds", type=whole(1), help=f"the first so many ({CLOUDS}; 1 sample of one shape)")
    shown.add_argument(
        "--num-points", type=whole(1), default=POINTS_OF_A_CLOUD, help="the most points of each (%(default)s)"
    )
    shown.add_argument("--split", help=f"train, val, test, or {ALL}: which clouds ({ALL})")
    shown.add_argument("--up", default="y", help="the axis that stands upright (%(default)s)")
    shown.add_argument(
        "--color", metavar="NAME", help=f"the column that gives points their colours ({SCORE}, in clouds that have it)"
    )
    add_seed(shown)
    model = parser.add_argument_group("model")
    model.add_argument("--label", type=whole(0), nargs="+", help="number of a class, for a model that has classes")
    add_custom(model)
    add_device(model)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, help="new file: .html (a temporary one)")
    output.add_argument("--no-open", action="store_true", help="write the page, and open no browser")
    add_json(output)


def check(arguments: argparse.Namespace) -> None:
    """See that the output is new, and that there is something to show."""
    if arguments.out is not None:
        check_new_file(arguments.out, (".html",))
    elif arguments.no_open:
        raise ValueError("--no-open shows nothing: name a file for the page with --out, too")
    check_exists(arguments.path)
    if _is_model(arguments.path):
        model_file(arguments.path)
        if arguments.color is not None:
            raise ValueError(f"--color is for clouds that have columns, but {arguments.path} holds a model")
    elif arguments.label is not None:
        raise ValueError(f"--label is for a model that has classes, but {arguments.path} holds clouds")


def run(arguments: argparse.Namespace) -> Result:
    """Write a page, and open it."""
    from pyro_pcflow.ops.files import new_file
    from pyro_pcflow.ops.reading import printable
    from pyro_pcflow.plotting import view_clouds
    from pyro_pcflow.plotting.camera import view_matrix

    view_matrix(elev=0.0, azim=0.0, up=arguments.up)
    is_model, title = _is_model(arguments.path), printable(arguments.path.resolve().name)
    clouds, colors = (_samples(arguments), None) if is_model else _stored(arguments)
    label = f"{SCORE}, nats" if arguments.color is None else printable(arguments.color)
    view = view_clouds(_near_zero(clouds), colors=colors, color_label=label, title=title, up=arguments.up)
    pictures = [arguments.path / name for name in PICTURES if is_model and (arguments.path / name).is_file()]
    page = _beside(view.page, pictures, title) if pictures else view.page
    out = _temporary(arguments.path) if arguments.out is None else arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_file(out) as file:
        file.write(page.encode())
    opened = not arguments.no_open and _open(out)
    values = {"out": out, "clouds": [*clouds], "points": [len(points) for points in clouds.values()], "opened": opened}
    return Result(values, [f"{out}: {', '.join(clouds)}"])


def _is_model(path: Path) -> bool:
    return path.suffix in SUFFIXES_OF_MODELS or any((path / name).is_file() for name in ("model.pt", "config.toml"))


def _samples(arguments: argparse.Namespace) -> dict[str, NDArray[Any]]:
    from pyro_pcflow.cli.models import CloudModel, load_model
    from pyro_pcflow.ops.random import seeded

    model = load_model(arguments.path, arguments.device, arguments.label, arguments.custom)
    count = given(arguments.num_clouds, SAMPLES_OF_MANY if isinstance(model, CloudModel) else 1)
    with seeded(arguments.seed, model.device):
        clouds = model.sample(count, arguments.num_points).cpu().numpy()
    return {"sample" if count == 1 else f"sample {number}": cloud for number, cloud in enumerate(clouds, 1)}


def _stored(arguments: argparse.Namespace) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any] | None]]:
    """The first clouds of a path, by name, and the numbers that their points are coloured by."""
    from pyro_pcflow.cli.data_options import LeftOut
    from pyro_pcflow.data.listing import list_entries
    from pyro_pcflow.data.reading import iterate_stored
    from pyro_pcflow.ops.reading import printable

    options, selection = folder_options_of(arguments), selection_of(arguments)
    split = choose_split(str(arguments.path), given(arguments.split, ALL), default=None, options=options)
    listing = list_entries(arguments.path.expanduser(), split, options)
    listing.warn(stacklevel=1)
    clouds: dict[str, NDArray[Any]] = {}
    colors: dict[str, NDArray[Any] | None] = {}
    most, more, left_out = given(arguments.num_clouds, CLOUDS), 0, LeftOut()
    for number, stored in enumerate(iterate_stored(listing, split), 1):
        there = stored.num_points
        asked = arguments.num_points if there is None or there > arguments.num_points else None
        color = _score_of(stored) if arguments.color is None else arguments.color
        drawn = stored.draw(asked, arguments.seed, replace(selection, features=None if color is None else [color]))
        left_out.add(drawn.dropped, drawn.strays)
        name, more = printable(stored.entry.name), stored.remaining
        name = f"{name}, {number}" if name in clouds or stored.index else name
        clouds[name] = drawn.points.copy()
        colors[name] = None if drawn.features is None else drawn.features[:, 0].copy()
        del stored, drawn
        if number == most:
            break
    if str(left_out):
        note(str(left_out))
    if more and len(clouds) == most:
        note(f"{arguments.path} holds {more} clouds or more beside the first {most}: --num-clouds shows others")
    return clouds, colors


def _score_of(stored: StoredCloud) -> str | None:
    """The column that `pcflow score` wrote."""
    from pyro_pcflow.data.column_names import bare_name
    from pyro_pcflow.data.shapes import PointTable

    if not isinstance(stored.source, PointTable):
        return None
    return next((name for name in stored.source.columns if bare_name(name) == bare_name(SCORE)), None)


def _near_zero(clouds: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Clouds in float32, counted from one origin where any of them needs double precision."""
    import numpy as np

    origin = 0.0
    if any(cloud.dtype == np.float64 for cloud in clouds.values()):
        origin = next(iter(clouds.values())).mean(axis=0).round()
    return {name: (cloud - origin).astype(np.float32) for name, cloud in clouds.items()}


def _beside(page: str, pictures: list[Path], title: str) -> str:
    """A page with pictures at its side."""
    import base64
    import html

    figures = [FIGURE.format(name=path.name, data=base64.b64encode(path.read_bytes()).decode()) for path in pictures]
    return PAGE.format(title=html.escape(title), page=html.escape(page), figures="\n".join(figures))


def _temporary(path: Path) -> Path:
    """A new file that stays until the system clears its folder of temporary files: a browser may read it later."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="pcflow-view-")) / f"{path.resolve().stem}.html"


def _open(page: Path) -> bool:
    import webbrowser

    opened = webbrowser.open(page.resolve().as_uri())
    if not opened:
        note(f"no browser was found: open {page} in one")
    return opened
