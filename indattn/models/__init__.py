"""Encoders, the decoder stack and the models that are compared."""
