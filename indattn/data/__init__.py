"""Corpora: what is shipped with the package, and how it is read."""
