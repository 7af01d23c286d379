"""What a model directory consists of, and how much of it is read at most."""

#: The version of the format that is written; older ones are read through `thalweg.persist.migrations`.
FORMAT = 1

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"
MANIFEST_FILE = "manifest.json"

#: The files that the manifest answers for.
CONTENTS = (CARD_FILE, MODEL_FILE, WEIGHTS_FILE)

#: Where a complete new model waits until its files have been moved beside it.
NEXT = ".next"

#: Bytes read of a text file at most.
LARGEST_TEXT = {MANIFEST_FILE: 1 << 16, MODEL_FILE: 1 << 26, CARD_FILE: 1 << 24}

#: Values in a text file at most, roughly counted: a list of two bytes takes sixty in memory.
MOST_VALUES = 1 << 23

#: Arrays in a model at most, and bytes of the header that lists them.
MOST_ARRAYS, LARGEST_HEADER = 10_000, 1 << 22

#: Records of the training curve that are kept.
LONGEST_HISTORY = 1_000
