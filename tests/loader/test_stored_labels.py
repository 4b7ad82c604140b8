"""A console that selects by stored labels: what is accepted, in which order, resumed, scheduled."""

import dataclasses
import json

import numpy as np
import pytest
from corpora import random_lengths, small_agents, write_corpus
from hypothesis import given
from hypothesis import strategies as st
from moot.loader import AgentSet, ConfigError, ConsoleConfig, Loader, StateError, Stream
from moot.loader.batches import Place, gather_candidates
from moot.loader.console import acceptance
from moot.loader.console.table import ONE
from moot.loader.label import label_corpus
from moot.loader.schedule import ScheduleConfig
from moot.loader.scoring import score

NUM = 600
CONSOLE = ConsoleConfig(refresh_steps=8, policy_lag=4)
SCHEDULE = ScheduleConfig(horizon_steps=8, round_steps=2, lag_rounds=2, edges="lookahead")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = write_corpus(tmp_path_factory.mktemp("stored") / "train", random_lengths(NUM))
    label_corpus(path, small_agents(), num_threads=2)
    return path


def open_loader(path, **settings):
    given = {"batch_rows": 8, "seq_len": 32, "console": CONSOLE, "labels": "stored", "keep": 0.4}
    given |= {"agents": small_agents(), "num_probes": 24, "prefetch_batches": 2, "num_slots": 2}
    return Loader(path, **given | settings)


def rewarded(ids):
    """Rewards as a function of sample ids alone."""
    return np.sin(np.asarray(ids) * 0.7) + (np.asarray(ids) % 3 == 1)


def losses_of(num):
    return 2.0 + np.cos(np.arange(num))


def influence_of(num, seed=3):
    return np.random.default_rng(seed).normal(size=(num, num)), np.full((num, num), 1e-3)


def run(loader, steps, influences=True, first=0):
    """Train for some steps; returns the sample ids of each batch."""
    stream, seen = iter(loader), []
    for step in range(first, first + steps):
        next(stream)
        seen.append(loader.pieces(step).sample_id.tolist())
        refresh = loader.refresh_due(step + 1)
        if refresh is not None:
            probes = loader.probes(refresh)
            loader.credit(refresh, probes.ids, rewarded(probes.sample_id))
        due = loader.round_due(step + 1)
        if due is not None:
            observe(loader, due, influences)
    return seen


def observe(loader, due, influences):
    num = len(loader.unit_names)
    edges = influence_of(num) if influences else (None, None)
    loader.observe(due, losses_of(num), *edges)


def scheduled(loader, steps, influences=True):
    assert loader.round_due(0) is None  # the first horizon begins with the first policy's lag
    return run(loader, steps, influences)


# Labels ---------------------------------------------------------------------------------------


def test_stored_states_are_those_that_inline_scoring_gives(corpus):
    agents = small_agents()
    with Loader(corpus, batch_rows=8, seq_len=4096, console=CONSOLE, agents=agents) as inline:
        next(iter(inline))
        (candidates, _), source = inline._recent[0], inline._source
        place = candidates.shard, candidates.row
        stored = open_loader(corpus)
        with stored:
            kept = stored._source.units.states(*place)
        whole = Place(*place, candidates.offset, candidates.length)
        again = gather_candidates(
            *(source.cache.get, "tokens", candidates.slot, whole),
            *(source.corpus.first_sample, np.uint16),
        )
        made = score(source, agents, again, inline.console.latest).states.numpy()
    assert (candidates.offset == 0).all()
    assert kept.tolist() == made.tolist()


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 1000)), min_size=1, max_size=40),
    st.floats(0.01, 1),
    st.sampled_from([0.0, 0.05, 1.0]),
)
def test_acceptance_keeps_the_share_of_tokens_and_prefers_better_cells(cells, keep, temperature):
    scores = np.array([score for score, _ in cells])
    tokens = np.array([count for _, count in cells]) + 1
    accepted = acceptance(scores, tokens, keep, temperature)
    assert accepted.min() >= 0 and accepted.max() <= ONE
    assert accepted @ tokens / ONE == pytest.approx(keep * tokens.sum(), rel=1e-6, abs=1e-6)
    order = np.argsort(-scores, kind="stable")
    assert (np.diff(accepted[order]) <= 0).all()


# Selecting ------------------------------------------------------------------------------------


def test_units_are_drawn_as_the_table_says_and_only_accepted_documents_are(corpus):
    fixed = ConsoleConfig(mode="fixed", memory=memory_of(small_agents()), temperature=0.3)
    with open_loader(corpus, packing="pad", seq_len=4096, keep=0.3, console=fixed) as loader:
        table = loader._mixture.table(0)
        stream, seen = iter(loader), []
        for step in range(30):
            next(stream)
            seen += loader.pieces(step).sample_id.tolist()
        shard, row = loader._source.corpus.locate(np.array(seen))
        cells = loader._source.units.rows.cells_of(shard, row)
        assert (table.accepted[cells] > 0).all()
        share = np.bincount(loader._source.units.unit_of[cells], minlength=len(table.weights))
        wanted = table.weights / table.weights.sum() * len(seen)
        assert np.abs(share - wanted).max() <= loader._source.order.num_strands
        assert (table.accepted == 0).any() or table.accepted.min() < table.accepted.max()


def test_equal_batches_at_every_world_size(corpus):
    with open_loader(corpus) as whole:
        wanted = run(whole, 20)
    parts = []
    for rank in range(2):
        with open_loader(corpus, rank=rank, world_size=2) as loader:
            parts.append(run(loader, 20))
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(ids) for ids in wanted]


@pytest.mark.parametrize("schedule", [None, SCHEDULE], ids=["console", "schedule"])
@pytest.mark.parametrize("stop", [3, 8, 13])
def test_resumes_with_the_same_batches(corpus, stop, schedule):
    begin = scheduled if schedule else run
    with open_loader(corpus, schedule=schedule) as loader:
        wanted = begin(loader, 30)
    with open_loader(corpus, schedule=schedule) as loader:
        first = begin(loader, stop)
        state = json.loads(json.dumps(loader.state_dict()))
    with open_loader(corpus, schedule=schedule) as loader:
        loader.load_state_dict(state)
        rest = run(loader, 30 - stop, first=stop)
    assert first + rest == wanted


def test_rewards_move_the_table(corpus):
    with open_loader(corpus) as loader:
        first = loader._mixture.table(0)
        run(loader, 40)
        last = loader._mixture.table(40)
    assert not np.array_equal(first.accepted, last.accepted)
    cells = loader._source.units.cells
    for table in (first, last):  # but for what is so rare that it counts as none
        share = table.accepted @ cells.tokens / ONE / cells.tokens.sum()
        assert 0.4 * (1 - 2 / 64) < share < 0.4 * (1 + 1e-6)
    domain = cells.labels[:, 1]  # `rewarded` likes documents whose id is 1 modulo 3: domain 1
    kept = [table.accepted * cells.tokens for table in (first, last)]
    shares = [tokens[domain == 1].sum() / tokens.sum() for tokens in kept]
    assert shares[1] > shares[0]


def memory_of(agents):
    return {agent.name: tuple(np.linspace(-1, 1, agent.num_states)) for agent in agents.agents}


# Schedules ------------------------------------------------------------------------------------


def test_a_schedule_without_influence_is_as_none(corpus):
    with open_loader(corpus) as plain:
        wanted = run(plain, 40)
    with open_loader(corpus, schedule=SCHEDULE) as loader:
        assert scheduled(loader, 40, influences=False) == wanted


def test_influence_changes_the_pace(corpus):
    with open_loader(corpus, schedule=SCHEDULE) as loader:
        paced = scheduled(loader, 40)
        metrics = loader.metrics()
    with open_loader(corpus) as plain:
        assert run(plain, 40) != paced
    assert metrics["schedule/edges"] > 0 and metrics["schedule/rounds"] == 19
    shares = [metrics[f"schedule/consumed_{i}(%)"] for i in range(int(metrics["schedule/units"]))]
    assert sum(shares) == pytest.approx(100)


def test_delta_zero_keeps_the_mix_of_every_round(corpus):
    calm = dataclasses.replace(SCHEDULE, delta=0.0)
    with open_loader(corpus, schedule=calm) as loader:
        scheduled(loader, 4)
        rounds = loader._pacer.schedule.rounds
        budgets = loader._pacer.schedule.budgets
    for each in rounds:
        wanted = budgets * each.counts.sum() / budgets.sum()
        assert np.abs(each.counts - wanted).max() <= 1.0


def test_a_round_that_nobody_observed_is_named(corpus):
    with (
        open_loader(corpus, schedule=SCHEDULE) as loader,
        pytest.raises(StateError, match=r"step 8 needs the losses of round 0"),
    ):
        run_without_observing(loader, 10)
    with open_loader(corpus, schedule=SCHEDULE, deterministic=False) as loader:
        run_without_observing(loader, 10)
        assert loader.metrics()["schedule/skipped"] > 0


def run_without_observing(loader, steps):
    stream = iter(loader)
    for step in range(steps):
        next(stream)
        refresh = loader.refresh_due(step + 1)
        if refresh is not None:
            probes = loader.probes(refresh)
            loader.credit(refresh, probes.ids, rewarded(probes.sample_id))


def test_unit_probes_are_fixed_and_of_their_unit(corpus):
    drawn = []
    for seed in (1, 1, 2):
        with open_loader(corpus, schedule=SCHEDULE, seed=seed) as loader:
            probes = loader.unit_probes()
            shard, row = loader._source.corpus.locate(probes.sample_id)
            assert loader._source.units.units_of(shard, row).tolist() == probes.unit.tolist()
            assert set(probes.unit.tolist()) == set(range(len(loader.unit_names)))
            drawn.append(probes.sample_id.tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_state_stays_small(corpus, capsys):
    sizes = []
    with open_loader(corpus, schedule=SCHEDULE) as loader:
        scheduled(loader, 10)
        sizes.append(len(json.dumps(loader.state_dict())))
        run(loader, 30, first=10)
        sizes.append(len(json.dumps(loader.state_dict())))
        units = len(loader.unit_names)
    with capsys.disabled():
        print(f"\nstate with {units} units: {sizes} B")
    assert max(sizes) < 256 << 10 and sizes[1] < 1.2 * sizes[0]


def test_streams_without_a_console_are_paced_and_resumed(tmp_path):
    streams = [Stream(write_corpus(tmp_path / f"s{i}", random_lengths(120, i))) for i in range(3)]
    pace = ScheduleConfig(horizon_steps=160, round_steps=40, lag_rounds=2, edges="lookahead")
    settings = {"batch_rows": 8, "seq_len": 64, "packing": "pad", "prefetch_batches": 2}

    def read(loader, first, steps, influences):
        stream, seen = iter(loader), []
        for step in range(first, first + steps):
            due = loader.round_due(step)
            if due is not None:
                observe(loader, due, influences)
            next(stream)
            seen.append(loader.pieces(step).sample_id.tolist())
        return seen

    with Loader(streams, **settings) as plain:
        wanted = read(plain, 0, 200, None)
    with Loader(streams, schedule=pace, **settings) as loader:
        assert read(loader, 0, 200, False) == wanted
    with Loader(streams, schedule=pace, **settings) as loader:
        first = read(loader, 0, 110, True)
        state = loader.state_dict()
        rest = read(loader, 110, 90, True)
    assert first + rest != wanted
    with Loader(streams, schedule=pace, **settings) as loader:
        loader.load_state_dict(state)
        assert read(loader, 110, 90, True) == rest


# Refusals -------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_by_name(corpus, tmp_path):
    with pytest.raises(ConfigError, match="pass labels='stored'"):
        open_loader(corpus, labels="inline", schedule=SCHEDULE)
    with pytest.raises(ConfigError, match="give `console`"):
        open_loader(corpus, console=None)
    bare = write_corpus(tmp_path / "bare", random_lengths(60))
    with pytest.raises(ConfigError, match=r"labels\.parquet"):
        open_loader(bare)
    with pytest.raises(ConfigError, match="lag_rounds"):
        open_loader(corpus, schedule=ScheduleConfig(horizon_steps=8, round_steps=1, lag_rounds=1))
    for wrong in ({"horizon_steps": 16}, {"lag_rounds": 3}):
        with pytest.raises(ConfigError, match="budgets of one policy"):
            open_loader(corpus, schedule=dataclasses.replace(SCHEDULE, **wrong))


def test_labels_of_other_agents_are_refused(corpus):
    few = small_agents()
    topic = dataclasses.replace(few.agents[2], num_states=2, state_names=("w", "x"))
    known = few.pool_states[:, 2] < 2
    share = few.pool_share[known] / few.pool_share[known].sum()
    few = AgentSet((*few.agents[:2], topic), few.model, few.pool_states[known], share)
    with pytest.raises(ConfigError, match="label it again"):
        open_loader(corpus, agents=few)
