"""Pictures of point clouds: contact sheets, films and interactive pages."""

from .camera import project
from .film import animate
from .sheet import plot_clouds, save_figure
from .viewer import View, save_html, view_clouds

__all__ = ["View", "animate", "plot_clouds", "project", "save_figure", "save_html", "view_clouds"]
