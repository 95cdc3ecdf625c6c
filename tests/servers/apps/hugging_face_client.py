"""Asks with Hugging Face's own client, prints the answer: ``python ... URL IMAGE.png [TOP_K]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from huggingface_hub import InferenceClient

if __name__ == "__main__":
    url, image, *top = sys.argv[1:]
    client = InferenceClient()
    found = client.image_classification(
        Path(image).read_bytes(), model=url, top_k=int(top[0]) if top else None
    )
    print(json.dumps([[f.label, f.score] for f in found]))
