"""Updates per second of IQL and TD3+BC, and of bare PyTorch loops over the same networks.

python tests/benchmarks/agents.py [--steps N] [--threads N]

A bare loop is a research script for one seed: `torch.nn.Linear` layers, an Adam for each network,
tensors in memory, without checks and records. It trains seeds one after the other; `Trainer` trains
the members of an agent together, and one of its updates updates every member. Sizes are those of
HalfCheetah. Figures are printed and not checked: they hold for the machine and its load.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from timing import Row, seconds, table

from pgdiff.agents import IQL, TD3BC
from pgdiff.data import Episodes
from pgdiff.evaluation.results import machine
from pgdiff.training import Trainer

OBSERVATION, ACTION, WIDTH, BATCH, RATE = 17, 6, 256, 256, 3e-4
ROWS, LENGTH = 100_000, 1000


def random_episodes() -> Episodes:
    """Return noise with the shapes of a recording."""
    rng = np.random.default_rng(0)
    return Episodes.from_arrays(
        observations=rng.standard_normal((ROWS, OBSERVATION), np.float32),
        actions=np.tanh(rng.standard_normal((ROWS, ACTION), np.float32)),
        rewards=rng.standard_normal(ROWS, np.float32),
        terminals=np.zeros(ROWS, bool),
        timeouts=np.arange(1, ROWS + 1) % LENGTH == 0,
    )


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Return a network with two hidden layers."""
    sizes = (nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    return nn.Sequential(*sizes, nn.Linear(WIDTH, outputs))


def batches(episodes: Episodes, steps: int) -> Iterator[tuple[Tensor, ...]]:
    """Return observations, actions, rewards and next observations of a batch."""
    observations, actions, rewards = (
        torch.from_numpy(field.copy())
        for field in (episodes.observations, episodes.actions, episodes.rewards)
    )
    for _ in range(steps):
        rows = torch.randint(ROWS - 1, (BATCH,))
        yield observations[rows], actions[rows], rewards[rows], observations[rows + 1]


class Optimised:
    """Networks and their Adam optimiser."""

    def __init__(self, *networks: nn.Module, more: Sequence[nn.Parameter] = ()) -> None:
        parameters = chain.from_iterable(network.parameters() for network in networks)
        self.optimizer = torch.optim.Adam([*parameters, *more], lr=RATE, fused=True)

    def step(self, loss: Tensor) -> None:
        """Take one optimiser step."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def polyak_update(slow: nn.Module, fast: nn.Module) -> None:
    """Move a target network."""
    with torch.no_grad():
        for behind, ahead in zip(slow.parameters(), fast.parameters(), strict=True):
            behind.lerp_(ahead, 0.005)


def bare_iql(episodes: Episodes, steps: int) -> None:
    """Return an update of implicit Q-learning, for one seed."""
    value, actor = network(OBSERVATION, 1), network(OBSERVATION, ACTION)
    critics = nn.ModuleList(network(OBSERVATION + ACTION, 1) for _ in range(2))
    slow = copy.deepcopy(critics).requires_grad_(False)
    log_deviation = nn.Parameter(torch.zeros(ACTION))
    of_value, of_critics = Optimised(value), Optimised(critics)
    of_actor = Optimised(actor, more=[log_deviation])
    for observation, action, reward, following in batches(episodes, steps):
        pair = torch.cat([observation, action], dim=-1)
        with torch.no_grad():
            values = torch.minimum(*(critic(pair) for critic in slow))[:, 0]
            target = reward + 0.99 * value(following)[:, 0]
        advantage = values - value(observation)[:, 0]
        weight = torch.where(advantage > 0, 0.7, 0.3)
        of_value.step((weight * advantage.square()).mean())
        of_critics.step(sum(F.mse_loss(critic(pair)[:, 0], target) for critic in critics))
        policy = torch.distributions.Normal(actor(observation).tanh(), log_deviation.exp())
        weight = (3.0 * advantage.detach()).exp().clamp(max=100.0)
        of_actor.step(-(weight * policy.log_prob(action).sum(-1)).mean())
        polyak_update(slow, critics)


def bare_td3_bc(episodes: Episodes, steps: int) -> None:
    """Return an update of TD3+BC, for one seed."""
    actor = network(OBSERVATION, ACTION)
    critics = nn.ModuleList(network(OBSERVATION + ACTION, 1) for _ in range(2))
    slow, target_actor = copy.deepcopy(critics), copy.deepcopy(actor)
    of_critics, of_actor = Optimised(critics), Optimised(actor)
    for step, (observation, action, reward, following) in enumerate(batches(episodes, steps)):
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(action)).clamp(-0.5, 0.5)
            ahead = torch.cat(
                [following, (target_actor(following).tanh() + noise).clamp(-1, 1)], -1
            )
            target = reward + 0.99 * torch.minimum(*(critic(ahead) for critic in slow))[:, 0]
        pair = torch.cat([observation, action], dim=-1)
        of_critics.step(sum(F.mse_loss(critic(pair)[:, 0], target) for critic in critics))
        if step % 2:
            policy_actions = actor(observation).tanh()
            values = critics[0](torch.cat([observation, policy_actions], dim=-1))
            balance = 2.5 / values.detach().abs().mean()
            of_actor.step(F.mse_loss(policy_actions, action) - balance * values.mean())
            polyak_update(slow, critics)
            polyak_update(target_actor, actor)


def trained(kind: type[IQL] | type[TD3BC], members: int) -> Callable[[Episodes, int], None]:
    """Return a function that trains an agent of `members` members with `Trainer`."""

    def loop(episodes: Episodes, steps: int) -> None:
        Trainer(
            steps=steps,
            batch_size=BATCH,
            learning_rate=RATE,
            warmup=0,
            ema_decay=0.0,
            clip_norm=None,
            validation=0.0,
            device="cpu",
            progress=False,
        ).fit(kind.from_episodes(episodes, members=members), episodes)

    return loop


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print a table, and return its rows.

    The loops run in turns under equal load, and the fastest turn of each counts.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="updates of a turn")
    parser.add_argument("--turns", type=int, default=5, help="turns of each loop")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    about = machine()
    print(f"{about['cores']} cores, {arguments.threads} threads, torch {about['torch']}")
    episodes = random_episodes()
    rows = []
    for name, kind, bare in (("IQL", IQL, bare_iql), ("TD3+BC", TD3BC, bare_td3_bc)):
        loops = {"bare loop": bare, "1 member": trained(kind, 1), "4 members": trained(kind, 4)}
        times: dict[str, list[float]] = {label: [] for label in loops}
        for _ in range(arguments.turns):
            for label, loop in loops.items():
                spent = seconds(lambda loop=loop: loop(episodes, arguments.steps))
                times[label].append(spent / arguments.steps)
        fastest = {label: min(spent) for label, spent in times.items()}
        setting = f"width {WIDTH}, batch {BATCH}"
        rows += [
            Row(f"{name}, bare loop, 1 seed", setting, 1 / fastest["bare loop"], "updates/s"),
            Row(f"{name}, bare loop, 4 seeds", setting, 0.25 / fastest["bare loop"], "updates/s"),
            Row(f"{name}, Trainer, 1 member", setting, 1 / fastest["1 member"], "updates/s"),
            Row(f"{name}, Trainer, 4 members", setting, 1 / fastest["4 members"], "updates/s"),
        ]
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
