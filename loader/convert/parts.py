# SPDX-License-Identifier: Apache-2.0
"""One part of a conversion: written from its shards of the source, and read back to be compared."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ShardError
from ..shards import Ask, MDSWriter, ParquetWriter, ShardIndex, find_shards, read_shard
from ..shards.index import INDEX_NAME
from ..shards.writer import Writer
from ..storage import Store
from .config import ConvertConfig
from .content import ContentDigest, encoded_cells
from .destination import Part
from .recipe import Recipe

ROW_GROUP_BYTES = 1 << 24


def write_part(
    source: Store,
    shards: ShardIndex,
    shard_ids: range,
    target: Store,
    recipe: Recipe,
    config: ConvertConfig,
) -> Part:
    """Write a part, over whatever a run that was cut short has left of it.

    Args:
        source: Where the shards are.
        shards: All shards of the source.
        shard_ids: Those of this part.
        target: The folder of the part.
        recipe: What is done to each.
        config: The settings.

    Raises:
        StorageError: A shard cannot be read, or a file not written.
        ShardError: A shard is corrupt, or does not fit the recipe or the target.
    """
    target.delete(INDEX_NAME)
    digest = ContentDigest(recipe.columns)
    ask = Ask(columns=tuple(recipe.read))
    num_dropped = 0
    with _open_writer(target, recipe.columns, config) as writer:
        for shard_id in shard_ids:
            samples = recipe.apply(read_shard(source, shards[shard_id], ask))
            digest.update(samples.cells, recipe.columns)
            writer.write_encoded(samples.cells)
            num_dropped += samples.num_dropped
    return Part(writer.num_samples, num_dropped, digest.hexdigest(), writer.published)


def verify_part(target: Store, written: Part, columns: Mapping[str, str], to: str) -> None:
    """Read a part back and compare it with what was read from the source.

    Raises:
        StorageError: A file is missing or cannot be read.
        ShardError: A file is corrupt, or its samples are not those of the source.
    """
    digest = ContentDigest(columns)
    num_samples = 0
    for info in find_shards(target, None, to) or () if written.files else ():
        shard = read_shard(target, info, Ask(columns=tuple(columns)))
        cells = {name: encoded_cells(shard, name) for name in columns}
        digest.update(cells, {name: shard.encoding(name) for name in columns})
        num_samples += shard.num_samples
    if num_samples != written.samples:
        wanted = written.samples
        raise ShardError(f"{target.url} holds {num_samples} samples, {wanted} were written")
    if digest.hexdigest() != written.digest:
        raise ShardError(f"{target.url}: its samples are not those of the source")


def _open_writer(target: Store, columns: Mapping[str, str], config: ConvertConfig) -> Writer:
    if config.to == "mds":
        return MDSWriter(
            target,
            columns,
            compression=config.compression,
            hashes=config.hashes,
            size_limit=config.size_limit,
        )
    return ParquetWriter(
        target,
        columns,
        compression=config.compression,
        row_group_bytes=min(ROW_GROUP_BYTES, config.size_limit),
        size_limit=config.size_limit,
        replace=True,
    )
