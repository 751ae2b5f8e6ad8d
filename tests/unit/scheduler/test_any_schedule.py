"""Whatever is sent, lost, repeated, reordered, killed and restarted: no job is lost, doubled or left undone.

Every run is repeatable from its seed; Hypothesis chooses the seeds and shortens a run that fails.
"""

import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_audit import Listener, audit
from scheduler_world import FakeFrontend, SimulatedWorker, World, spec

from collodion.scheduler.config import PolicyName


class Chaos:
    """Frontends, workers and a scheduler that are treated badly, and then well."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = World(
            policy=self.chance.choice(list(PolicyName)),
            grace_s=2.0,
            frontend_grace_s=4.0,
            static_size=3,
            static_timeout_s=0.5,
            max_jobs=20,
        )
        self.world.listener = Listener()
        self.world.persisting = self.chance.random() < 0.8
        self.world.frontend()
        self.world.worker(max_batch=3, max_resident=5)
        self.world.settle()
        self._actions: list[tuple[Callable[[], None], int]] = [
            (self.submit, 12),
            (self.watch, 4),
            (self.leave, 4),
            (self.cancel, 2),
            (self.ask, 2),
            (self.deliver_some, 20),
            (self.deliver_all, 6),
            (self.mistreat, 6),
            (self.stall, 2),
            (self.persist, 3),
            (self.work, 25),
            (self.pass_time, 8),
            (self.lose_worker, 2),
            (self.start_worker, 3),
            (self.replace_frontend, 1),
        ]

    def act(self) -> None:
        """One thing happens."""
        actions, weights = zip(*self._actions, strict=True)
        self.chance.choices(actions, weights)[0]()
        audit(self.world.core)
        book = self.world.core.book
        assert not book.live.keys() & book.ended.keys()
        assert self.world.stored.keys() == book.live.keys() | book.ended.keys()

    def calm_down(self) -> None:
        """Everybody lives, reads and beats: then every job ends, and every watcher hears of it."""
        world = self.world
        world.persisting = True
        for frontend in world.frontends:
            frontend.reads = True
        if not any(worker.alive for worker in world.workers):
            world.worker(max_batch=3, max_resident=5)
        if world.unpersisted:
            world.persist()
        world.pass_time(5.0)
        world.run()
        world.pass_time(8.0)
        audit(world.core)
        assert not any(frontend.watching for frontend in world.frontends if frontend.alive)
        assert not list(world.core.watchers)
        assert not any(worker.latents for worker in world.workers if worker.alive), "memory is freed"

    # ------------------------------------------------------------ clients

    def submit(self) -> None:
        job = spec(
            images=self.chance.randint(1, 4),
            steps=self.chance.randint(1, 6),
            width=self.chance.choice([64, 64, 128]),
            detach=self.chance.random() < 0.2,
            request_id=self.chance.choice(["", "", "", "one", "two"]),
        )
        self._frontend().submit(job, watch=self.chance.random() < 0.8)

    def watch(self) -> None:
        self._frontend().watch(self._job())

    def leave(self) -> None:
        frontend = self._frontend()
        if frontend.watching:
            frontend.leave(self.chance.choice(list(frontend.watching)))

    def cancel(self) -> None:
        self._frontend().cancel(self._job())

    def ask(self) -> None:
        self._frontend().get(self._job())
        self._frontend().list_jobs(2)

    # ------------------------------------------------------------ messages

    def deliver_some(self) -> None:
        peer = self._peer()
        for _ in range(self.chance.randint(1, 5)):
            if peer.inbox:
                peer.hear(peer.inbox.popleft())
            if peer.outbox:
                self.world.deliver_up(peer)

    def deliver_all(self) -> None:
        self.world.settle()

    def mistreat(self) -> None:
        peer = self._peer()
        queue: Any = self.chance.choice([peer.outbox, peer.inbox])
        if queue:
            self.chance.choice([queue.popleft, lambda: queue.append(queue[0]), lambda: queue.rotate(1)])()

    def stall(self) -> None:
        self._frontend().reads = self.chance.random() < 0.6

    def persist(self) -> None:
        if self.world.unpersisted:
            self.world.persist()

    # ------------------------------------------------------------ time, life and death

    def work(self) -> None:
        if worker := self._worker():
            worker.step()
            self.world.now += 0.01

    def pass_time(self) -> None:
        seconds = self.chance.choice([0.1, 0.3, 0.3, 1.0, 1.0, 4.0])
        self.world.pass_time(seconds, beats=self.chance.random() < 0.8)

    def lose_worker(self) -> None:
        if worker := self._worker():
            how = self.chance.choice(["dies", "dies", "leaves", "is poisoned", "forgets"])
            if how == "is poisoned":
                worker.poison.update(list(worker.latents)[:1])
            elif how == "forgets":
                worker.latents.clear()
            elif how == "leaves":
                worker.outbox.clear()
                worker.leave()
                self.world.deliver_up(worker)
            worker.alive = how in ("is poisoned", "forgets")

    def start_worker(self) -> None:
        if sum(worker.alive for worker in self.world.workers) < 3:
            self.world.worker(max_batch=self.chance.randint(1, 4), max_resident=self.chance.randint(2, 6))

    def replace_frontend(self) -> None:
        if self.chance.random() < 0.3:
            self.world.start_scheduler()
        else:
            self._frontend().alive = False
            self.world.frontend()

    # ------------------------------------------------------------ somebody

    def _frontend(self) -> FakeFrontend:
        return self.chance.choice([frontend for frontend in self.world.frontends if frontend.alive])

    def _worker(self) -> SimulatedWorker | None:
        alive = [worker for worker in self.world.workers if worker.alive]
        return self.chance.choice(alive) if alive else None

    def _peer(self) -> FakeFrontend | SimulatedWorker:
        return self.chance.choice(self.world.peers())

    def _job(self) -> str:
        return self.chance.choice(sorted(self.world.stored) or ["none"])


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 300))
def test_whatever_happens_every_job_ends_once_and_its_watchers_are_told_once(seed: int, length: int) -> None:
    chaos = Chaos(seed)
    for _ in range(length):
        chaos.act()
    chaos.calm_down()
