"""Placing the words of a transcript in a recording: decoders, other aligners, measures."""
