"""Every instruction family: each module of this package is imported, which fills the registry.

Adding an instruction is adding a class in one of these files, or a file; there is no list to keep.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
