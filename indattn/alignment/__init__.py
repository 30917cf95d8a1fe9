"""Where words are said: decoders of scores, aligners, scores of alignments."""
