"""One limit, shared between hosts: never more than it, nobody left out, the dead forgotten."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as some

from ray_agents.pacing import Allowance, Level
from ray_agents.sharing import (
    LEASE,
    SETTLING,
    ModelKey,
    ModelSharing,
    Refused,
    Report,
    Share,
    Sharing,
    Want,
    divide,
)

KEY = ModelKey("anthropic", "http://here", "claude", "")
LONG = LEASE.total_seconds() + 2


def sharing(level: int = 20, **allowed: int) -> ModelSharing:
    """One whose limit is known, and that has settled."""
    allowance = Allowance(calls_max=level, **allowed)
    made = ModelSharing(allowance, now=-100, level=Level(calls=level, known=level))
    assert SETTLING.total_seconds() < 100
    return made


@dataclass
class Host:
    """A host as the centre's rules want it: it starts no more than it was told it may."""

    name: str
    centre: ModelSharing
    calls: int = 0
    waiting: int = 0
    in_flight: int = 0
    accepted: dict[int, int] = field(default_factory=dict[int, int])

    def start(self) -> None:
        """Send as many calls as may go."""
        count = max(0, min(self.waiting, self.calls - self.in_flight))
        self.waiting -= count
        self.in_flight += count

    def report(self, now: float, *, lost: bool = False) -> Share:
        report = Report(
            in_flight=self.in_flight,
            waiting=self.waiting,
            entities=self.in_flight + self.waiting,
            share=self.calls,
            accepted={0: 1} if self.in_flight else {},
        )
        share = self.centre.report(self.name, report, now=now)
        if not lost:
            self.calls = share.calls
        self.start()
        return share


@given(
    calls=some.integers(0, 50),
    wants=some.lists(
        some.builds(
            Want, calls=some.integers(0, 40), entities=some.integers(0, 40), order=some.floats(0, 9)
        ),
        max_size=8,
    ),
)
def test_all_is_given_out_that_is_wanted_and_no_more(calls: int, wants: list[Want]) -> None:
    given_out = divide(calls, wants)
    assert sum(given_out) == min(calls, sum(want.calls for want in wants))
    assert all(0 <= got <= want.calls for got, want in zip(given_out, wants, strict=True))


def test_each_gets_in_proportion_to_its_entities() -> None:
    wants = [Want(calls=100, entities=30), Want(calls=100, entities=10), Want(calls=2, entities=9)]
    assert divide(22, wants) == [15, 5, 2]


def test_what_cannot_be_parted_goes_to_whoever_was_served_longest_ago() -> None:
    wants = [Want(calls=1, entities=1, order=order) for order in (3, 1, 2)]
    assert divide(2, wants) == [0, 1, 1]


@given(
    steps=some.lists(
        some.tuples(
            some.sampled_from(["want", "end", "report", "lost", "die"]),
            some.integers(0, 3),
            some.integers(1, 9),
        ),
        max_size=80,
    )
)
def test_no_more_than_the_limit_is_ever_in_flight(steps: list[tuple[str, int, int]]) -> None:
    """Whatever answers are lost, and whoever dies."""
    centre, now = sharing(20), 0.0
    hosts = [Host(str(number), centre) for number in range(4)]
    for what, of, count in steps:
        host = hosts[of]
        now += 0.05
        match what:
            case "want":
                host.waiting += count
                host.start()
            case "end":
                host.in_flight -= min(host.in_flight, count)
                host.start()
            case "die":
                hosts[of] = Host(f"{host.name}+", centre)
            case _:
                host.report(now, lost=what == "lost")
        assert sum(each.in_flight for each in hosts) <= 20


@given(order=some.permutations(range(4)), rounds=some.integers(1, 3))
def test_everybody_gets_a_share_of_what_all_want(order: list[int], rounds: int) -> None:
    centre = sharing(20)
    hosts = [Host(str(number), centre, waiting=50) for number in range(4)]
    for tick in range(8 * rounds):
        for number in order:
            hosts[number].report(tick * 0.05)
    for _ in range(8):  # the first had more, and gives it back as its calls end
        for host in hosts:
            host.in_flight = min(host.in_flight, host.calls)
            host.waiting = 50 - host.in_flight
            host.report(8 * rounds * 0.05)
    assert [host.calls for host in hosts] == [5, 5, 5, 5]


def test_hosts_with_one_call_each_take_turns_when_they_are_more_than_the_limit() -> None:
    centre, now = sharing(4), 0.0
    hosts = [Host(str(number), centre, waiting=1000) for number in range(12)]
    served = dict.fromkeys(range(12), 0)
    for _ in range(400):
        now += 0.05
        for number, host in enumerate(hosts):
            before = host.waiting
            host.in_flight = 0  # its call has ended
            accepted = {0: 1} if host.calls else {}
            report = Report(waiting=1, entities=1, share=host.calls, accepted=accepted)
            host.calls = centre.report(host.name, report, now=now).calls
            host.start()
            served[number] += before - host.waiting
    assert min(served.values()) > 0.5 * sum(served.values()) / 12


def test_what_a_dead_host_held_is_free_again_after_its_lease() -> None:
    centre = sharing(20)
    dead, living = Host("dead", centre, waiting=50), Host("living", centre, waiting=50)
    dead.report(0)
    assert dead.in_flight == 20
    living.report(1)
    assert living.calls == 0
    living.report(LONG)
    assert living.calls == 20


def test_who_leaves_gives_its_share_back_at_once() -> None:
    centre = sharing(20)
    one, other = Host("one", centre, waiting=50), Host("other", centre, waiting=50)
    one.report(0)
    centre.report("one", Report(share=20, leaving=True), now=0)
    other.report(0)
    assert other.calls == 20


def test_a_quiet_host_has_places_to_spare_but_not_all() -> None:
    centre = sharing(64)
    one, other = Host("one", centre, waiting=2), Host("other", centre, waiting=2)
    assert 20 < one.report(0).calls < 60
    assert other.report(0).calls > 5


def test_all_hosts_hear_of_a_pause() -> None:
    centre = sharing(20)
    one, other = Host("one", centre, waiting=50), Host("other", centre, waiting=50)
    one.report(0)
    refused = Refused(round=0, retry_after=7)
    centre.report("one", Report(waiting=50, entities=50, share=20, refused=[refused]), now=1)
    assert other.report(2).pause == 6


def test_a_centre_that_begins_anew_goes_on_with_what_its_hosts_know() -> None:
    centre = Sharing(lambda _: Allowance())
    one = Report(in_flight=10, waiting=90, entities=100, share=10, level=Level(calls=20, known=20))
    two = replace(one)
    shares = [
        centre.report(name, {KEY: each}, now=0)[KEY] for name, each in (("1", one), ("2", two))
    ]
    assert [share.calls for share in shares] == [10, 10]
    assert shares[0].level == Level(calls=20, known=20)


def test_a_centre_that_begins_anew_hands_out_no_burst() -> None:
    allowance = Allowance(requests_per_minute=600)
    centre = ModelSharing(allowance, now=0, level=Level(calls=20, known=20))
    want = Report(waiting=50, entities=50, share=20)
    assert centre.report("one", want, now=0).starts == 0
    assert centre.report("one", want, now=1).starts == 9


def test_calls_by_the_minute_are_handed_out_and_taken_back() -> None:
    centre = sharing(20, requests_per_minute=60)
    want = Report(waiting=9, entities=9, share=20)
    assert centre.report("one", want, now=0).starts == 5
    assert centre.report("one", want, now=0).starts == 0
    assert centre.report("one", replace(want, starts_back=3), now=0).starts == 3


def test_status_tells_of_who_waits_for_how_long_of_pauses_and_of_the_minute() -> None:
    centre = sharing(2, requests_per_minute=24)  # two at a time
    centre.report("a", Report(in_flight=2, waiting=3, waited=4.0, entities=5), now=0)
    refused = (Refused(round=centre.limit.round, retry_after=9.0),)
    centre.report("b", Report(waiting=1, waited=1.0, entities=1, refused=refused), now=0)
    told = centre.status(now=2)
    assert (told["in_flight"], told["waiting"], told["hosts"]) == (2, 4, 2)
    assert (told["waited_seconds"], told["paused_seconds"]) == (6.0, 7.0)
    assert told["requests"] == {"used": 2, "allowed": 24}
    assert told["tokens"] is None


def test_status_does_not_tell_of_hosts_that_have_died() -> None:
    centre = sharing(20)
    centre.report("a", Report(in_flight=2, waiting=3, entities=5), now=0)
    told = centre.status(now=LONG)
    assert (told["in_flight"], told["waiting"], told["waited_seconds"], told["hosts"]) == (
        0,
        0,
        0,
        0,
    )


def test_tokens_are_counted_by_what_calls_have_used() -> None:
    centre = sharing(20, tokens_per_minute=120_000)
    want = Report(waiting=9, entities=9, share=20)
    share = centre.report("one", want, now=0)
    assert (share.starts, share.tokens_each) == (2, 4_000)
    ended = replace(want, ended=20, tokens=20 * 100, tokens_granted=2 * 4_000)
    share = centre.report("one", ended, now=0)
    assert (share.starts, share.tokens_each) == (9, 100)


@given(
    seconds=some.lists(some.floats(0.05, 5), min_size=1, max_size=60),
    waiting=some.lists(some.integers(0, 30), min_size=4, max_size=4),
)
def test_no_minute_has_more_calls_than_its_worth(seconds: list[float], waiting: list[int]) -> None:
    centre, now, sent = sharing(20, requests_per_minute=30), 0.0, list[float]()
    for pause in seconds:
        now += pause
        for name, count in enumerate(waiting):
            share = centre.report(str(name), Report(waiting=count, entities=count), now=now)
            sent += [now] * (share.starts or 0)
    for index, begun in enumerate(sent):
        assert sum(1 for each in sent[index:] if each < begun + 60) <= 30
