"""Measurements of gbdnn beside other libraries; part of a checkout, not of the package.

Each measurement is a `benchmarks.process.Job` in a process of its own, one engine a process. The
command is `gbdnn bench`; `benchmarks.store.load` gives its results as a DataFrame.
"""
