"""The one part that is compiled; all else is in pyproject.toml and setup.cfg."""

from setuptools import Extension, setup

# Optional: without a C compiler, or on another processor than x86, torch does its work at half the speed.
setup(
    ext_modules=[
        Extension("datamodules.clips._scale", ["datamodules/clips/scale.c"], extra_compile_args=["-O3"], optional=True)
    ]
)
