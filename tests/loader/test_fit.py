# SPDX-License-Identifier: Apache-2.0
"""moot fit: features, splits, topics, quality, rounding, and the files beside a corpus."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from moot.loader.agents import AgentSet
from moot.loader.errors import AgentError, ConfigError
from moot.loader.label import FitConfig, fit, report_table
from moot.loader.label.features import Tfidf, average, count_ngrams
from moot.loader.label.fit import assemble
from moot.loader.label.heads import FloatModel, join
from moot.loader.label.measure import auc, balanced_accuracy, confusion
from moot.loader.label.model import fit_pieces
from moot.loader.label.ngrams import top_ngrams, topic_names
from moot.loader.label.pieces import Pieces, cut_pieces
from moot.loader.label.quality import domain_weights, quality_target, shuffle_tokens
from moot.loader.label.quantize import quantize, score
from moot.loader.label.splits import split_pieces
from moot.loader.shards import MDSWriter
from moot.loader.storage import open_store
from moot.triton_kernels.document_scores import document_scores

NUM_DOMAINS, WORDS, HEX = 3, 60, 16
HEX_START = NUM_DOMAINS * WORDS  # the tokens of a hex dump, which no domain uses otherwise
SMALL = FitConfig(num_topics=4, num_buckets=2**12, projection_dim=8, batch_pieces=32)


def _clean(rng, domain, length):
    """A chain in which each word of the domain has three successors."""
    words = [int(rng.integers(WORDS))]
    while len(words) < length:
        words.append((words[-1] * 7 + 3 + int(rng.integers(3))) % WORDS)
    return np.array(words) + domain * WORDS


def _documents(num, seed, junk_share):
    """Tokens, domains and kinds ("clean", "shuffled", "hex") of documents."""
    rng = np.random.default_rng(seed)
    documents, domains, kinds = [], [], []
    for number in range(num):
        domain = number % NUM_DOMAINS
        tokens, kind = _clean(rng, domain, int(rng.integers(60, 200))), "clean"
        if rng.random() < junk_share:
            kind = ("shuffled", "hex")[int(rng.integers(2))]
            dump = HEX_START + rng.integers(HEX, size=len(tokens))
            tokens = rng.permutation(tokens) if kind == "shuffled" else dump
        documents.append(tokens)
        domains.append(domain)
        kinds.append(kind)
    return documents, domains, np.array(kinds)


def _pieces(documents, domains, is_reference, first_id=0):
    lengths = [len(tokens) for tokens in documents]
    ids = first_id + np.arange(len(documents))
    return Pieces(
        np.concatenate(documents).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids,
        ids,
        np.array(domains, dtype=np.int32),
        np.full(len(documents), is_reference),
    )


@pytest.fixture(scope="module")
def sample():
    """Corpus pieces (kinds beside them) and reference pieces of domains 0 and 1."""
    documents, domains, kinds = _documents(360, 0, 0.3)
    clean, clean_domains, _ = _documents(150, 1, 0.0)
    chosen = [pos for pos, domain in enumerate(clean_domains) if domain < 2]
    reference = _pieces([clean[p] for p in chosen], [clean_domains[p] for p in chosen], True, 10**6)
    return Pieces.concat([_pieces(documents, domains, False), reference]), kinds


@pytest.fixture(scope="module")
def fitted(sample):
    return fit_pieces(sample[0], SMALL)


def _write_corpus(url, seed=0, reference=True):
    store = open_store(str(url))
    for name in store.list():
        store.delete(name)
    columns = {"tokens": "ndarray:uint16", "source": "str", "domain": "uint8", "id": "str"}
    for part, num, junk in (("train", 240, 0.3), ("reference", 90, 0.0))[: 1 + reference]:
        documents, domains, _ = _documents(num, [seed, num], junk)
        with MDSWriter(store.child(part), columns, size_limit=1 << 14) as writer:
            for number, (tokens, domain) in enumerate(zip(documents, domains, strict=True)):
                row = {"tokens": tokens.astype(np.uint16), "domain": np.uint8(domain)}
                writer.write(row | {"source": f"{part}{number % 30}", "id": f"{part}/{number}"})
    names = ["alpha", "beta", "gamma"]
    store.put("corpus.json", json.dumps({"domains": names}).encode())
    return store


# Features and sample


def test_cut_covers_every_document_once():
    lengths = np.array([0, 5, 8, 17, 1])
    document, starts, stops = cut_pieces(lengths, 8)
    assert (stops > starts).all() and (stops - starts <= 8).all()
    covered = [
        (int(d), token)
        for d, a, b in zip(document, starts, stops, strict=True)
        for token in range(a, b)
    ]
    assert covered == [(d, token) for d, n in enumerate(lengths) for token in range(n)]


def test_take_and_concat_keep_pieces_whole(sample):
    pieces = sample[0]
    chosen = np.array([5, 0, 400, 7])
    taken = pieces.take(chosen)
    for position, original in enumerate(chosen):
        a, b = taken.cu_seqlens[position : position + 2]
        c, d = pieces.cu_seqlens[original : original + 2]
        assert np.array_equal(taken.tokens[a:b], pieces.tokens[c:d])
    assert np.array_equal(taken.document_id, pieces.document_id[chosen])
    assert taken.is_reference.tolist() == [False, False, True, False]


@pytest.mark.parametrize("orders", [(1,), (1, 2), (2, 3)])
def test_counts_use_the_buckets_of_the_op(sample, orders):
    """The op, given an integer table, must equal the same sum over our counts, to the last bit."""
    short = _pieces(
        [np.array([3]), np.array([3, 9]), np.array([9, 3, 9, 3])], [0, 0, 0], False, 900
    )
    pieces = Pieces.concat([sample[0].take(np.arange(20)), short])
    rng = np.random.default_rng(0)
    floats = FloatModel(
        rng.normal(size=(256, 16)).astype(np.float32),
        rng.normal(size=(3, 16)).astype(np.float32),
        rng.normal(size=3).astype(np.float32),
    )
    model = quantize(floats, orders)
    counts = count_ngrams(pieces, orders, 256).astype(np.int64)
    total = np.maximum(np.asarray(counts.sum(axis=1)), 1)
    bag = (counts @ model.table.numpy().astype(np.int64)) @ model.heads.numpy().astype(np.int64).T
    exact = (bag + total * model.bias.numpy()).astype(np.float32) * model.scale.numpy()
    assert np.array_equal(exact / total.astype(np.float32), score(model, pieces))


def test_tfidf_rows_have_unit_length_and_drop_common_buckets(sample):
    counts = count_ngrams(sample[0], (1, 2), 4096)
    tfidf = Tfidf.fit(counts, 5, 0.5)
    held = np.bincount(counts.indices, minlength=4096)
    assert (held[tfidf.bucket] >= 5).all() and (held[tfidf.bucket] <= 0.5 * len(sample[0])).all()
    length = np.sqrt(tfidf.transform(counts).power(2).sum(axis=1))
    assert np.allclose(length[length > 0], 1, atol=1e-5)


# Splits and the quality target


def test_documents_are_never_on_two_sides():
    documents, domains, _ = _documents(60, 0, 0.0)
    one = _pieces(documents * 3, domains * 3, False)
    ids = np.tile(np.arange(60), 3)
    corpus = replace(one, document_id=ids, source_id=ids // 10)
    reference = replace(_pieces(documents, domains, True, 999), source_id=np.arange(60) // 10)
    pieces = Pieces.concat([corpus, reference])
    splits = split_pieces(pieces, 0.15, 0)
    assert splits.unit == "document"  # six sources would decide everything
    _check_disjoint(pieces.document_id, pieces, splits)


def test_sources_are_never_on_two_sides(sample):
    pieces = replace(sample[0], source_id=sample[0].document_id % 25)
    splits = split_pieces(pieces, 0.15, 0)
    assert splits.unit == "source"
    for side in (False, True):
        mine = pieces.is_reference == side
        _check_disjoint(np.where(mine, pieces.source_id, -1), pieces, splits, side)


def _check_disjoint(unit_id, pieces, splits, side=None):
    parts = [splits.train, splits.stop, splits.heldout]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(pieces)))
    for part in parts:
        assert set(pieces.is_reference[part]) == {False, True}
    seen = [set(unit_id[part].tolist()) - {-1} for part in parts]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    for part in parts[1:]:
        assert 0.02 < len(part) / len(pieces) < 0.2


def test_one_huge_source_stays_in_training(sample):
    source = np.where(sample[0].document_id < 300, 0, sample[0].document_id)
    splits = split_pieces(replace(sample[0], source_id=source), 0.1, 0)
    assert splits.unit == "source"
    assert np.isin(np.arange(300), splits.train).all()


def test_too_few_documents_name_the_set(sample):
    pieces, _ = sample
    few = np.concatenate([np.flatnonzero(~pieces.is_reference), [len(pieces) - 1]])
    with pytest.raises(AgentError, match="reference set gave 1 documents"):
        split_pieces(pieces.take(few), 0.1, 0)


def test_quality_weighs_domains_as_the_reference_does(sample):
    pieces = sample[0]
    target = quality_target(pieces, 100, 0.4)
    total = target.weight.sum()
    assert target.weight[target.label == 1].sum() / total == pytest.approx(0.5, rel=1e-4)
    assert target.weight[-100:].sum() / total == pytest.approx(0.2, rel=1e-4)
    weight, domain = domain_weights(pieces), pieces.domain[~pieces.is_reference]
    shares = (
        np.bincount(pieces.domain[pieces.is_reference], minlength=3) / pieces.is_reference.sum()
    )
    assert np.allclose(np.bincount(domain, weights=weight, minlength=3), shares)


def test_shuffled_copies_hold_the_same_tokens(sample):
    pieces = sample[0]
    copy = shuffle_tokens(pieces, 0)
    for a, b in zip(pieces.cu_seqlens[:-1], pieces.cu_seqlens[1:], strict=True):
        assert np.array_equal(np.sort(copy.tokens[a:b]), np.sort(pieces.tokens[a:b]))
    assert (copy.tokens != pieces.tokens).mean() > 0.5


# The fit


def test_quality_ranks_shuffled_and_hex_below_clean(sample, fitted):
    """In the reference's domains; the corpus never says which pieces are which."""
    pieces, kinds = sample
    value = fitted.values[: len(kinds), 0]
    mine = pieces.domain[: len(kinds)] < 2
    clean = value[mine & (kinds == "clean")]
    assert auc(clean, value[mine & (kinds == "shuffled")]) > 0.8
    assert auc(clean, value[mine & (kinds == "hex")]) > 0.95


def test_topics_recover_sources(sample, fitted):
    """Three domains and hex: each topic is one of the four, on held-out documents too."""
    pieces, kinds = sample
    source = np.where(kinds == "hex", NUM_DOMAINS, pieces.domain[: len(kinds)])
    topic = fitted.topic[: len(kinds)]
    counts = confusion(source, topic, 4)
    assert (np.sort(counts.argmax(axis=1)) == np.arange(4)).all()
    held = fitted.splits.heldout[fitted.splits.heldout < len(kinds)]
    best = counts.argmax(axis=1)[source]
    assert (topic == best).mean() > 0.97
    assert (topic[held] == best[held]).mean() > 0.9


def test_states_of_the_sample_are_quintiles(sample, fitted):
    states = fitted.quality_state[~sample[0].is_reference]
    assert np.bincount(states, minlength=5).tolist() == [72] * 5
    assert fitted.values[states.size :, 0].mean() > fitted.values[: states.size, 0].mean()


def test_quantisation_error_is_within_its_bound(sample, fitted):
    trainings = [fitted.quality_training.model, fitted.topic_training.model]
    floats = join(trainings)
    shares = average(count_ngrams(sample[0], SMALL.orders, SMALL.num_buckets))
    separate = np.concatenate([model.logits(shares) for model in trainings], axis=1)
    assert np.allclose(separate, floats.logits(shares), atol=1e-4)
    table_step = np.abs(floats.table).max() / 127
    head_step = np.abs(floats.heads).max(axis=1) / 32767
    dim = floats.table.shape[1]
    table_error = 0.5 * table_step * np.abs(floats.heads).sum(axis=1)
    head_error = 0.5 * head_step * dim * (np.abs(floats.table).max() + table_step)
    bound = table_error + head_error + table_step * head_step + 1e-4
    error = np.abs(floats.logits(shares) - fitted.values).max(axis=0)
    assert (error <= bound).all()
    assert error.max() == pytest.approx(fitted.agreement.max_abs_error, rel=1e-3)
    assert fitted.agreement.same_topic_share > 0.99


def test_fit_gives_the_same_bits_again_on_other_threads(sample, fitted):
    before = torch.get_num_threads()
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        again = fit_pieces(sample[0], SMALL)
        assert torch.get_num_threads() == num_threads
        for name in ("table", "heads", "bias", "scale"):
            assert torch.equal(getattr(again.model, name), getattr(fitted.model, name)), name
        assert np.array_equal(again.edges, fitted.edges)
    torch.set_num_threads(before)
    other = fit_pieces(sample[0], replace(SMALL, seed=1))
    assert not torch.equal(other.model.table, fitted.model.table)


def test_fewer_pieces_than_topics_are_said():
    documents, domains, _ = _documents(12, 0, 0.0)
    corpus = _pieces(documents[:3] * 4, domains[:3] * 4, False)
    pieces = Pieces.concat([corpus, _pieces(documents, domains, True, 999)])
    found = fit_pieces(pieces, replace(SMALL, num_topics=13))
    num_topics = found.values.shape[1] - 1
    assert num_topics <= 3
    assert f"there are {num_topics} topics, not 13" in found.warnings[0]


def test_one_topic_is_a_topic(sample):
    found = fit_pieces(sample[0], replace(SMALL, num_topics=1, epochs=1))
    assert found.topic_training is None and not found.warnings
    assert (found.topic == 0).all()


def test_reference_of_foreign_domains_is_said(sample):
    pieces = sample[0]
    domain = np.where(pieces.is_reference, 7, pieces.domain).astype(np.int32)
    found = fit_pieces(replace(pieces, domain=domain), replace(SMALL, epochs=1))
    assert "share no domain" in found.warnings[0]


def test_assembled_agents_label_as_the_fit_does(sample, fitted):
    pieces = sample[0]
    names = {"domain": ["a", "b", "c"], "topic": [f"t{n}" for n in range(4)]}
    agents = assemble(pieces, fitted, names)
    tables = agents.tables(np.zeros((3, 5)), np.ones(3) / 3)
    stored = torch.from_numpy(agents.stored_states({"domain": pieces.domain}, len(pieces)))
    cu_seqlens = torch.from_numpy(pieces.cu_seqlens)
    tokens = torch.from_numpy(pieces.tokens)
    states = document_scores(tokens, cu_seqlens, agents.model, tables, stored).states.numpy()
    expected = np.stack([fitted.quality_state, pieces.domain, fitted.topic], axis=1)
    assert np.array_equal(states, expected)
    corpus = ~pieces.is_reference
    share = dict(zip(map(tuple, agents.pool_states.tolist()), agents.pool_share, strict=True))
    assert set(share) == set(map(tuple, expected[corpus].tolist()))
    cell = tuple(expected[0].tolist())
    tokens_in = pieces.lengths[corpus][(expected[corpus] == cell).all(axis=1)].sum()
    assert share[cell] == pytest.approx(tokens_in / pieces.lengths[corpus].sum())


# Measures, names, report


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    higher, lower = rng.integers(6, size=40), rng.integers(5, size=30)
    pairs = [(a > b) + 0.5 * (a == b) for a in higher for b in lower]
    assert auc(higher, lower) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(higher, lower[:0]))
    said = np.array([True, False, True, True])
    assert balanced_accuracy(np.array([True, True, False, False]), said) == 0.25


def test_top_ngrams_tell_topics_apart():
    vocabulary = ["the", " import", " self", " void", " int", "x"]
    documents = [np.array([0, 1, 2])] * 6 + [np.array([0, 3, 4])] * 6
    pieces = _pieces(documents, [0] * 12, False)
    topic = np.repeat([0, 1], 6)
    found = top_ngrams(pieces, topic, 2, (1, 2), lambda t: "".join(vocabulary[n] for n in t))
    assert {"import", "self"} <= {gram.text.strip() for gram in found[0]}
    # " void" stands in every piece of topic 1 (6 + 0.5 of 6 + 1) and in none of topic 0.
    void = next(gram for gram in found[1] if gram.text == " void")
    assert void.share_in == pytest.approx(6.5 / 7) and void.share_out == pytest.approx(0.5 / 7)
    texts = {gram.text.strip() for gram in found[1]}
    assert "void" in texts and not {"the", "import"} & texts
    assert topic_names(found)[0].startswith("topic 0: ") and "import" in topic_names(found)[0]


def test_config_names_the_field():
    for field, value in (("num_buckets", 1000), ("dim", 8), ("orders", (2, 1)), ("epochs", 0)):
        with pytest.raises(ConfigError, match=f"FitConfig.{field} is"):
            FitConfig(**{field: value})


# Buckets


def test_fit_stores_agents_and_report_beside_the_corpus(tmp_path):
    store = _write_corpus(tmp_path)
    stages = []
    report = fit(str(tmp_path), SMALL, lambda stage, done, total, detail: stages.append(stage))
    assert {"read sample", "cluster topics", "fit topics", "fit quality"} <= set(stages)
    agents = AgentSet.load(store)
    assert agents.names == ("quality", "domain", "topic")
    assert agents.agents[1].state_names == ("alpha", "beta", "gamma")
    assert agents.pool_share.sum() == pytest.approx(1)
    assert agents.meta == json.loads(json.dumps({k: v for k, v in report.items() if k != "reused"}))
    assert report["sample"]["split_by"] == "source"
    assert report["sample"]["corpus"]["documents"] == 240
    assert report["topic"]["heldout_accuracy"] > 0.8
    assert len(report["topic"]["heldout_confusion"]) == 4
    assert all(topic["examples"] and topic["ngrams"] for topic in report["topic"]["topics"])


def test_fit_is_reused_until_something_changes(tmp_path):
    store = _write_corpus(tmp_path)
    quick = replace(SMALL, epochs=1)
    first = fit(str(tmp_path), quick)
    data = store.get("agents.safetensors")
    again = fit(str(tmp_path), quick)
    assert again["reused"] and not first["reused"]
    assert again["quality"] == first["quality"]
    forced = fit(str(tmp_path), replace(quick, force=True))
    assert not forced["reused"] and store.get("agents.safetensors") == data
    store.put("agents.safetensors", data[:-1])  # a torn file is no fit
    assert not fit(str(tmp_path), quick)["reused"] and store.get("agents.safetensors") == data
    assert not fit(str(tmp_path), replace(quick, seed=3))["reused"]
    agents = {name: store.get(name) for name in ("agents.safetensors", "agents.json")}
    _write_corpus(tmp_path, seed=1)
    for name, data in agents.items():  # of the corpus that stood here before
        store.put(name, data)
    assert not fit(str(tmp_path), replace(quick, seed=3))["reused"]


def test_fit_names_what_is_missing(tmp_path):
    with pytest.raises(AgentError, match="holds no train/index.json"):
        fit(str(tmp_path), SMALL)
    _write_corpus(tmp_path, reference=False)
    with pytest.raises(AgentError, match="holds no reference set.*moot corpus"):
        fit(str(tmp_path), SMALL)


def test_sample_keeps_its_limits(tmp_path):
    _write_corpus(tmp_path)
    small = replace(SMALL, max_pieces=100, max_tokens=5000, seq_len=64, epochs=1)
    corpus = fit(str(tmp_path), small)["sample"]["corpus"]
    assert 60 < corpus["pieces"] <= 100 and corpus["tokens"] <= 5000
    few = replace(small, max_shards=2, max_pieces=10**6, max_tokens=10**9)
    documents = fit(str(tmp_path), few)["sample"]["corpus"]["documents"]
    assert 20 < documents < 240


def test_report_prints_markup_as_it_stands(tmp_path):
    from rich.console import Console

    _write_corpus(tmp_path)
    report = fit(str(tmp_path), replace(SMALL, epochs=1))
    report["topic"]["topics"][0]["name"] = "topic 0: [bold]odd[/] names"
    report["warnings"] = ["said [once]"]
    console = Console(file=io.StringIO(), width=160)
    console.print(report_table(report))
    text = console.file.getvalue()
    assert "[bold]odd[/] names" in text and "said [once]" in text
    assert "agreement with k-means" in text
