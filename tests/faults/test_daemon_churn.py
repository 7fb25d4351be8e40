"""``agentsup up`` amid kills, rewrites of its file and clients, for five minutes in benchmarks/."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from daemon_churn import Churn, churn_for

SEED = os.environ.get("AGENTSUP_SEED")


def test_state_and_reality_agree(tmp_path):
    """Repeat it with AGENTSUP_SEED=<the seed of the failure>; races differ all the same."""
    seed = int(SEED) if SEED else random.SystemRandom().getrandbits(32)
    churn = Churn(tmp_path, services=40, clients=10, seed=seed)
    try:
        run = anyio.run(churn_for, churn, 4.0, 2, lambda _: None)
    except BaseException as exc:
        exc.add_note(f"AGENTSUP_SEED={seed}")
        raise
    assert run.counts["checks"] == 2
    assert all(run.counts[name] for name in ("kill -9", "events", "200 /v1/update", "lines"))
