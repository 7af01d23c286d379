r"""Model directories: `save` writes a model, `load` reads one that nobody vouches for.

A directory holds `model.json` (what the model is), `weights.safetensors` (its arrays), `README.md` (a model
card) and `manifest.json` (size and SHA-256 of the other three). Files of a run (`checkpoint.safetensors`,
`metrics.jsonl`, `report.html`) and anything else that lies there are neither read nor touched.

**Writing.** A new directory is written under a temporary name, synchronised and renamed. Into a directory
that is there already the four files are written ahead:

1. a hidden temporary folder inside it receives the new files, each synchronised;
2. it is renamed to `.next`, which is the moment at which the new model takes the place of the old one;
3. the files move from `.next` into the directory, one rename each, `manifest.json` last; `.next` is removed.

A reader looks for each file in `.next` first and then beside it, so it finds one whole model after a kill at
any moment: the old one before step 2, the new one after it. The next save finishes what was left. The
directory itself is never renamed: it may be a mount point, and a run keeps its files open in it.

**Reading.** Nothing is believed before it is checked, and nothing large is allocated before its size is known
to be right: file types and sizes, the format version, the settings (by the recipe), the schema (by itself),
then names, number, types, shapes and places of the arrays in the header of the weights against the shapes
that `jax.eval_shape` finds for the recipe's skeleton, then the hashes, then the numbers, which must be
finite. No pickle, and no link is followed.
"""

from thalweg.persist.directory import fingerprint
from thalweg.persist.layout import FORMAT, MODEL_FILE
from thalweg.persist.reading import load
from thalweg.persist.writing import check_destination, check_schema, save

__all__ = ["FORMAT", "MODEL_FILE", "check_destination", "check_schema", "fingerprint", "load", "save"]
