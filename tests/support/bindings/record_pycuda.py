"""Records the surface of pycuda.driver, which has no wheels: `python -m bindings.record_pycuda OUT.json` in tests/.

Needs pycuda built for this Python and no GPU: set PYCUDA to the folder that it is installed in. Its extension is
imported against a libcuda that gcc makes here, which exports the symbols that the extension names and does nothing.
How to build pycuda without a GPU or cuRAND: a siteconf.py with CUDA_ROOT, CUDA_ENABLE_CURAND = False, and a
CUDADRV_LIB_DIR that holds any libcuda.so, linked with -Wl,--no-as-needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.bindings.downloads import surface_of


def stub_libcuda(extension: Path, folder: Path) -> None:
    """Make a libcuda.so.1 with every symbol of the driver that the extension wants."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(extension)], capture_output=True, text=True, check=True
    ).stdout
    names = sorted({line.split()[-1] for line in listed.splitlines() if line.split()[-1].startswith("cu")})
    source = folder / "libcuda.c"
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in names), encoding="ascii")
    target = folder / "libcuda.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(target), str(source)], check=True
    )


def public(surface: dict[str, Any]) -> dict[str, Any]:
    """Leave out what Python itself gives every class and module."""
    return {
        name: {"signatures": each["signatures"], "members": {n: s for n, s in each["members"].items() if _is_own(n)}}
        for name, each in sorted(surface.items())
        if not name.startswith("_")
    }


def _is_own(name: str) -> bool:
    return not name.startswith("_") or name in ("__int__", "__index__")


def main() -> None:
    installed = Path(os.environ["PYCUDA"])
    (extension,) = (installed / "pycuda").glob("_driver*.so")
    with tempfile.TemporaryDirectory() as folder:
        stub_libcuda(extension, Path(folder))
        surface = public(surface_of("pycuda.driver", [installed], Path(folder)))
    version = next(installed.glob("pycuda-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    record = {
        "recorded": f"pycuda {version}, built with CUDA 13.0 without cuRAND, imported against a stub of libcuda",
        "surface": surface,
    }
    Path(sys.argv[1]).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
