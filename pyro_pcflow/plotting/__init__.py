"""Pictures of point clouds: contact sheets, films and interactive pages."""

from pyro_pcflow.plotting.camera import project
from pyro_pcflow.plotting.film import animate
from pyro_pcflow.plotting.sheet import plot_clouds, save_figure
from pyro_pcflow.plotting.viewer import View, save_html, view_clouds

__all__ = ["View", "animate", "plot_clouds", "project", "save_figure", "save_html", "view_clouds"]
