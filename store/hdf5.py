"""One HDF5 file that holds a whole store: to hand on, and for programs that read no Zarr.

``hiprobe store export`` and ``hiprobe store import``; lossless both ways. `storage_schema.md`
says what is in the file, and what is checked when it comes back.
"""

from hiprobe.store.hdf5_export import export_hdf5
from hiprobe.store.hdf5_import import import_hdf5

__all__ = ["export_hdf5", "import_hdf5"]
