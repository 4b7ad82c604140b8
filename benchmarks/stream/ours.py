# SPDX-License-Identifier: Apache-2.0
"""How our loader is set: its defaults, and the tokens as stored."""

from .reader import BATCH_ROWS, BUCKET, KEYS, SEQ_LEN, Reader

FIELD = "tokens"


def moot(place, *, scheme="s3", keep=False, form="mds"):
    """Stream the MDS corpus, from the bucket or over HTTP; `keep` caches shards on disk."""
    cache_dir = str(place.cache) if keep else None
    loader = open_loader(place, scheme=scheme, form=form, cache_dir=cache_dir)
    if place.state is not None:
        loader.load_state_dict(place.state)
    stream = (batch[FIELD] for batch in loader)
    return Reader(lambda: stream, loader.state_dict, loader.close, is_endless=True)


def open_loader(place, *, scheme="s3", form="mds", **settings):
    """Return our loader of a corpus, from the bucket, over HTTP or from this machine's folder."""
    from moot.loader import Loader

    bases = {"s3": f"s3://{BUCKET}", "http": f"{place.endpoint}/{BUCKET}", "file": place.served}
    options = {"endpoint": place.endpoint, **KEYS}
    return Loader(
        f"{bases[scheme]}/{place.corpus}/{form}",
        batch_rows=BATCH_ROWS,
        seq_len=SEQ_LEN,
        fields=(FIELD,),
        shuffle=True,
        storage_options=options if scheme == "s3" else None,
        **settings,
    )
