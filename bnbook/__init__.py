"""The Batch Normalization Book: formulas, experiments and claims.

Importing the package costs nothing: `torch` is imported by the modules that compute.
"""

__version__ = "0.1.0"
