"""Models that not every task takes."""

#: Of pairs, not of sequences: tests/models/test_pairs.py and tests/tasks/test_cross_modal_retrieval.py.
OF_PAIRS = ("dual", "dual_small_loss", "uniform", "indirect_tokens", "indirect_shuffled", "indirect_small_loss")
#: Of spans of time: tests/models/test_alignment.py and tests/tasks/test_speech_text_alignment.py.
OF_SPANS = ("cross_moving", "cross_expected", "phone_classifier")
OTHERS = (*OF_PAIRS, *OF_SPANS)
