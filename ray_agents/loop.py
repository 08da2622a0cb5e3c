"""The agent loop: ask the model, run the tools it calls, until it calls none.

What happens is in the log before what follows from it begins (DESIGN invariant 5). Rows are
*staged* as things become known and committed together right before the next effect, so a step
costs two commits: one before its tools run (the answer, and that the tools are executing), one
before the next model call (their results, and that the call begins). The last commit holds the
answer and the end of the run.

Resuming is not a mode: the loop reads which step is complete and which of its tool calls lack a
result, and goes on from there; a new run is the case in which there is none.

Between two steps the loop takes in the messages that are to steer it (``steering.py``); one that
waits keeps a run going that would have ended. An interrupt (``interruption.py``) cuts the model
call or the tools short, and the run ends there: with the text that was said until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.errors import ModelUnavailable
from ray_agents.model import (
    AnswerBroken,
    Answered,
    CallQueued,
    CallSent,
    Model,
    ModelRequest,
    UsageSeen,
)
from ray_agents.narration import Narration
from ray_agents.ports import Journal
from ray_agents.prices import micros_of
from ray_agents.prompting import Prompting
from ray_agents.runs import (
    COST_MAX,
    INTERRUPTED,
    STEERED,
    TIME_MAX,
    TOKENS_MAX,
    TURNS_MAX,
    calls_in,
)
from ray_agents.runwriting import RunWriter
from ray_agents.steering import JOINING_MAX, has_joined, joining
from ray_agents.timeline import sendable
from ray_agents.toolruns import ToolRuns

CUT_OFF = frozenset({"max_tokens", "model_context_window_exceeded", "refusal", INTERRUPTED})
PAUSED = "pause_turn"
T = TypeVar("T")


async def run_agent(
    journal: Journal,
    agent: AgentConfig,
    *,
    model: Model,
    input: str | None = None,
    prompting: Prompting | None = None,
) -> AgentRunResult:
    """Run the agent, or go on with its recorded run; a completed one is only read.

    ``input`` is said to the model as the user, after the messages of the journal's history.
    ``prompting`` composes the prompts; without it they are the system prompt and the transcript.

    Raises:
        ModelUnavailable: the model cannot be reached; running again goes on from here.
        NondeterministicWake: the recorded run began with another input, completed or not.
    """
    return await _Loop(journal, agent, model, prompting or Prompting(agent, model)).run(input)


class _Loop:
    def __init__(
        self, journal: Journal, agent: AgentConfig, model: Model, prompting: Prompting
    ) -> None:
        self._journal = journal
        self._agent = agent
        self._model = model
        self._prompting = prompting
        self._writer = RunWriter(journal, prices=agent.prices)
        self._record = self._writer.record
        self._tools = ToolRuns(self._writer, agent)

    async def run(self, text: str | None) -> AgentRunResult:
        run = self._record.run
        if run is None or run["status"] != "completed":
            self._writer.stage("run", self._record.run_started(text, self._journal.now()))
            await self._go_on()
        else:
            self._record.check_input(text)
        return self._record.result()

    async def _go_on(self) -> None:
        step = self._record.steps_completed
        while (stop := self._stop_after(step)) is None:
            if step:
                await self._unless_interrupted(self._tools.run(step))
                if (stop := self._limit(step)) is not None:  # tools take time, and children tokens
                    break
            if (stop := await self._prepare(step)) is not None:
                break
            if (stop := await self._ask(step + 1)) is not None:
                break
            step += 1
        step = self._record.steps_completed
        self._tools.refuse(step, stop)
        self._writer.stage_unsaid(self._record.steps_abandoned(stop))
        now = self._journal.now()
        self._writer.stage("run", self._record.run_completed(step, stop, now))
        await self._writer.commit()

    async def _prepare(self, number: int) -> str | None:
        """Do all that a prompt waits for; why the run stops after that many steps, if it does.

        If it took time, a limit may have been reached meanwhile, or another run may have taken in
        the messages for which this one goes on.
        """
        prompting, summed_up = self._prompting, True
        waited = not prompting.is_ready
        if waited and (reason := await self._in_time(prompting.ready())) is not None:
            return reason
        while summed_up:  # each time a part of what is too long
            compacting = prompting.compact(self._writer, seconds=self._seconds_left())
            summed_up = await self._unless_interrupted(compacting)
            waited = waited or summed_up is not None or self._journal.interruption.is_set
            if waited and (reason := self._stop_after(number)) is not None:
                return reason
        if (
            not prompting.is_ready
            and (reason := await self._in_time(prompting.ready())) is not None
        ):
            return reason
        return self._stop_after(number) if waited else None

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> str | None:
        """Do what the run's time and interrupts cut short; which of them did, if one did."""
        limit = asyncio.timeout(self._seconds_left())
        try:
            async with limit:
                with self._journal.interruption.cuts(limit):
                    await work
        except TimeoutError:
            if not limit.expired():
                raise
            return INTERRUPTED if self._journal.interruption.is_set else TIME_MAX
        return None

    def _stop_after(self, number: int) -> str | None:
        """Why the run stops after that many steps; None if it goes on."""
        reason, limit = self._end_of(number), self._limit(number)
        if reason is None or (limit is None and self._is_steered(number, reason)):
            return limit
        return reason

    def _end_of(self, number: int) -> str | None:
        """Why a step was the last by itself; None if there is more to do, or it is none yet."""
        step = self._record.completed_step(number)
        if step is None:
            return None
        reason: str = step["finish_reason"]
        if reason != PAUSED and (reason in CUT_OFF or not calls_in(step["content"])):
            return reason
        return None

    def _is_steered(self, number: int, reason: str) -> bool:
        """Whether there are messages to go on with after a step that would have been the last."""
        waits = has_joined(self._record, number + 1) or self._journal.steering()
        return bool(waits) and reason not in CUT_OFF

    def _take_in(self, number: int) -> None:
        """Stage the messages that wait to steer the run, before the step of that number.

        A turn that the provider paused is not over: they wait until it is.
        """
        before = self._record.completed_step(number - 1)
        if before is None or before["finish_reason"] != PAUSED:
            messages = self._journal.steering()[:JOINING_MAX]
            self._writer.hear(messages)
            self._writer.stage(STEERED, *joining(self._record, number, messages))

    async def _unless_interrupted(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work gives; None if an interrupt came before it had ended."""
        scope = asyncio.timeout(None)
        try:
            async with scope:
                with self._journal.interruption.cuts(scope):
                    return await work
        except TimeoutError:
            if not scope.expired():
                raise
            return None

    def _limit(self, number: int) -> str | None:
        """Which limit stands before another model call after that many steps; None if none does."""
        agent, spent = self._agent, self._record.spent
        reached = {
            INTERRUPTED: self._journal.interruption.is_set,
            TURNS_MAX: number >= agent.turns_max,
            TOKENS_MAX: agent.tokens_max is not None and spent.tokens >= agent.tokens_max,
            COST_MAX: agent.cost_max is not None and spent.micros >= micros_of(agent.cost_max),
            TIME_MAX: (left := self._seconds_left()) is not None and left <= 0,
        }
        first = next((name for name, is_reached in reached.items() if is_reached), None)
        return first or self._journal.used_up()

    def _seconds_left(self) -> float | None:
        """How long the run may still take, people's time apart; None for as long as it likes."""
        run, limit = self._record.run, self._agent.time_max
        if run is None or limit is None:
            return None
        taken = self._journal.now() - run["started_at"] - self._record.awaited
        return limit.total_seconds() - taken / 1e6

    # -- the model ---------------------------------------------------------------------------

    async def _ask(self, number: int) -> str | None:
        """One model call; its answer is staged. Why it was cut off, if it was.

        Nothing is awaited between taking messages in and the append that says so: of runs side by
        side only one may.
        """
        agent, record = self._agent, self._record
        self._take_in(number)
        request = self._prompting.request(self._writer, number)
        started = record.step_started(
            number, provider=self._model.provider, model=agent.model, now=self._journal.now()
        )
        self._writer.stage("step", *started)
        await self._writer.commit()
        narration = Narration(self._journal, record, step=number)
        limit = asyncio.timeout(self._seconds_left())
        try:
            async with limit:
                with self._journal.interruption.cuts(limit):
                    answer = await self._listen(request, narration, number)
        except TimeoutError:
            if not limit.expired():
                raise
            return self._cut_off(number, narration)
        except ModelUnavailable as error:
            code, message = error.slug, error.message
            self._journal.post(record.run_failed(number, code=code, message=message))
            raise
        finally:
            narration.close()
        self._writer.stage_unsaid(narration.finish(answer))
        self._writer.stage("step", record.step_completed(number, answer, self._journal.now()))
        return None

    def _cut_off(self, number: int, narration: Narration) -> str:
        """Stage what becomes of an answer that is not waited for any longer; why it is not.

        What was said before an interrupt has been read by who interrupted, so it stands.
        """
        record, reason = self._record, TIME_MAX
        if self._journal.interruption.is_set:
            reason = INTERRUPTED
            content, ended = narration.cut()
            if said := sendable(content):
                self._writer.stage_unsaid(ended)
                rows = record.step_interrupted(number, said, self._journal.now())
                self._writer.stage("step", *rows)
                return reason
        self._writer.stage_unsaid(record.step_cut_off(number, reason))
        return reason

    async def _listen(self, request: ModelRequest, narration: Narration, number: int) -> Answered:
        async with aclosing(self._model.stream(request)) as events:
            async for event in events:
                match event:
                    case Answered():
                        return event
                    case UsageSeen(usage=usage):
                        if usage.tokens:
                            self._journal.post([self._record.usage_seen(number, usage)])
                    case AnswerBroken():
                        narration.see(event)  # and the ledger knows of it before the next attempt
                        await self._journal.commit([self._record.attempt_broken(number)])
                    case CallQueued():
                        self._record.queued(number)
                    case CallSent():
                        self._record.sent(number)
                    case _:
                        narration.see(event)
        message = f"the stream of {request.model!r} ended before its answer was complete"
        raise ModelUnavailable(message, model=request.model)
