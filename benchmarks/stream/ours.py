# SPDX-License-Identifier: Apache-2.0
"""How our loader is set: its defaults, and the tokens as stored."""

from .reader import BATCH_ROWS, BUCKET, KEYS, SEQ_LEN, Reader

FIELD = "tokens"


def moot(place, *, scheme="s3", keep=False, form="mds"):
    """Stream the MDS corpus, from the bucket or over HTTP; `keep` caches shards on disk."""
    from moot.loader import Loader

    options = {"endpoint": place.endpoint, **KEYS}
    base = f"s3://{BUCKET}" if scheme == "s3" else f"{place.endpoint}/{BUCKET}"
    loader = Loader(
        f"{base}/{place.corpus}/{form}",
        batch_rows=BATCH_ROWS,
        seq_len=SEQ_LEN,
        fields=(FIELD,),
        shuffle=True,
        cache_dir=str(place.cache) if keep else None,
        storage_options=options if scheme == "s3" else None,
    )
    if place.state is not None:
        loader.load_state_dict(place.state)
    stream = (batch[FIELD] for batch in loader)
    return Reader(lambda: stream, loader.state_dict, loader.close, is_endless=True)
