"""Extension modules only; everything else about the package is in pyproject.toml.

Environment:
    UNDERPASS_SANITIZE=1   build with AddressSanitizer and UndefinedBehaviourSanitizer
    UNDERPASS_ANNOTATE=1   write Cython's annotated HTML beside the generated C in build/
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
CORE = Path("ext") / "underpass" / "core"

if sys.platform == "win32":
    compile_args: list[str] = ["/O2"]
    link_args: list[str] = []
else:
    compile_args = ["-O2", "-g1", "-fno-strict-aliasing", "-Wno-unused-function"]
    link_args = []
    if os.environ.get("UNDERPASS_SANITIZE"):
        sanitize = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
        compile_args += [*sanitize, "-O1"]
        link_args += sanitize

extensions = [
    Extension(
        f"underpass.core.{path.stem}",
        [path.as_posix()],
        include_dirs=[CORE.as_posix()],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for path in sorted((ROOT / CORE).glob("*.pyx"))
]
for extension in extensions:
    extension.sources = [
        Path(source).resolve().relative_to(ROOT).as_posix() for source in extension.sources
    ]

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        extensions,
        include_path=["ext"],
        build_dir="build/cython",
        annotate=bool(os.environ.get("UNDERPASS_ANNOTATE")),
        nthreads=0,
        compiler_directives={"language_level": 3, "embedsignature": True},
    ),
)
