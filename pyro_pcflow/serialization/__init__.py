"""Save and load a module: weights and configuration in one file, without pickled code.

A configuration is the keyword arguments that make the same object again, as the attribute `config` of a module or of an
`Elementwise`: plain values, lists and dicts of these, and other objects that have a `config`. In a file such an object
is `{"class": name, "config": {...}}`. A class of this library is found by its name; one of yours, which derives from
what it extends and has a `config`, is given to `load`, as nothing that a file names is ever imported:

    class Bend(pcf.transforms.Elementwise): ...

    pcf.save(pcf.PointCloudFlow(3, coupling=Bend()), "flow.pt")
    pcf.load("flow.pt", custom=[Bend])
"""

from pyro_pcflow.serialization.classes import plain
from pyro_pcflow.serialization.files import has_config, load, save
from pyro_pcflow.serialization.older import current_options

__all__ = ["current_options", "has_config", "load", "plain", "save"]
