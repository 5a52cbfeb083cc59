"""Code-Centric Learning for clinical coding, in JAX."""

__version__ = '0.1.0'
