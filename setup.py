"""Builds the compiled modules, where a compiler is; everything else about the package is in pyproject.toml."""

import importlib.util
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "nonecheck": True,
}


def extensions() -> list[Extension]:
    """Return the compiled modules, none if Cython is not there; one that cannot be built is left out."""
    try:
        from Cython.Build import cythonize
    except ImportError:
        return []
    spec = importlib.util.spec_from_file_location("compiled", ROOT / "client/compiled.py")
    assert spec is not None
    assert spec.loader is not None
    compiled = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compiled)
    sources = [str(file.relative_to(ROOT)) for file in compiled.source_files(ROOT)]
    made = [
        Extension(
            name,
            [f"{name.replace('.', '/')}.pyx"],
            define_macros=[("POOLD_SOURCES", str(compiled.sources(ROOT)))],
            depends=sources,  # of all modules: each holds the checksum of them all
        )
        for name in compiled.COMPILED
    ]
    found: list[Extension] = cythonize(made, build_dir="build/cython", compiler_directives=DIRECTIVES)
    for extension in found:
        extension.optional = True  # cythonize does not keep it
    return found


setup(ext_modules=extensions())
