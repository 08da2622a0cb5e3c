"""The agent loop: ask the model, run the tools it calls, until it calls none.

What happens is in the log before what follows from it begins (DESIGN invariant 5). Rows are
*staged* as things become known and committed together right before the next effect, so a step
costs two commits: one before its tools run (the answer, and that the tools are executing), one
before the next model call (their results, and that the call begins). The last commit holds the
answer and the end of the run.

Resuming is not a mode: the loop reads which step is complete and which of its tool calls lack a
result, and goes on from there; a new run is the case in which there is none.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.errors import (
    CorruptLog,
    Fenced,
    InvalidPayload,
    ModelUnavailable,
    NondeterministicWake,
    StoreFull,
    StoreUnavailable,
)
from ray_agents.events import Draft
from ray_agents.model import AnswerBroken, Answered, Block, Model, ModelRequest, UsageSeen
from ray_agents.narration import Narration
from ray_agents.ports import Journal
from ray_agents.prices import micros_of
from ray_agents.runs import (
    BUDGET,
    COST_MAX,
    TIME_MAX,
    TOKENS_MAX,
    TURNS_MAX,
    RunRecord,
    calls_in,
)
from ray_agents.timeline import INTERRUPTED, NOT_RUN, Timeline
from ray_agents.tools import ERROR_CHARS_MAX, Tool, cut

TOOLS_PARALLEL_MAX = 16
CUT_OFF = frozenset({"max_tokens", "model_context_window_exceeded", "refusal"})
_Ended = dict[str, Any]  # how a tool ended, as fields of its row
UPWARDS = (Fenced, NondeterministicWake, StoreFull, StoreUnavailable, CorruptLog)


async def run_agent(
    journal: Journal, agent: AgentConfig, *, model: Model, input: str | None = None
) -> AgentRunResult:
    """Run the agent, or go on with its recorded run; a completed one is only read.

    ``input`` is said to the model as the user, after the messages of the journal's history.

    Raises:
        ModelUnavailable: the model cannot be reached; running again goes on from here.
        NondeterministicWake: the recorded run began with another input.
    """
    return await _Loop(journal, agent, model).run(input)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A tool call that may run: its row's key, its block, and its checked arguments."""

    key: str
    block: Block
    tool: Tool
    args: BaseModel


class _Loop:
    def __init__(self, journal: Journal, agent: AgentConfig, model: Model) -> None:
        self._journal = journal
        self._agent = agent
        self._model = model
        recorded = journal.recorded()
        self._record = RunRecord(journal.run_key, recorded, prices=agent.prices)
        self._timeline = Timeline((*journal.history(), *recorded))
        self._staged: list[Draft] = []

    async def run(self, text: str | None) -> AgentRunResult:
        run = self._record.run
        if run is None or run["status"] != "completed":
            self._stage("run", self._record.run_started(text, self._journal.now()))
            await self._go_on()
        return self._record.result()

    async def _go_on(self) -> None:
        step = self._record.steps_completed
        while (stop := self._end_of(step) or self._limit(step)) is None:
            if step:
                await self._run_tools(step)
                if (stop := self._limit(step)) is not None:  # tools take time, and children tokens
                    break
            if not await self._ask(step + 1):
                stop = TIME_MAX
                break
            step += 1
        self._refuse_calls(step, stop)
        now = self._journal.now()
        self._stage("run", self._record.run_completed(step, stop, now))
        await self._commit()

    def _end_of(self, number: int) -> str | None:
        """Why a step was the last by itself; None if there is more to do, or it is none yet."""
        step = self._record.completed_step(number)
        if step is None:
            return None
        reason: str = step["finish_reason"]
        paused = reason == "pause_turn"
        if not paused and (reason in CUT_OFF or not calls_in(step["content"])):
            return reason
        return None

    def _limit(self, number: int) -> str | None:
        """Which limit stands before another model call after that many steps; None if none does."""
        agent, spent = self._agent, self._record.spent
        reached = {
            TURNS_MAX: number >= agent.turns_max,
            TOKENS_MAX: agent.tokens_max is not None and spent.tokens >= agent.tokens_max,
            COST_MAX: agent.cost_max is not None and spent.micros >= micros_of(agent.cost_max),
            TIME_MAX: (left := self._seconds_left()) is not None and left <= 0,
            BUDGET: self._journal.over_budget(),
        }
        return next((name for name, is_reached in reached.items() if is_reached), None)

    def _seconds_left(self) -> float | None:
        """How long the run may still take; None for as long as it likes."""
        run, limit = self._record.run, self._agent.time_max
        if run is None or limit is None:
            return None
        return limit.total_seconds() - (self._journal.now() - run["started_at"]) / 1e6

    def _stage(self, type_name: str, *drafts: Draft) -> None:
        """Keep rows for the next commit, and let the transcript know them."""
        self._staged.extend(drafts)
        for draft in drafts:
            row = self._record.row(type_name, draft.key)
            if draft.type == type_name and row is not None:
                self._timeline.take(type_name, draft.key, row)

    async def _commit(self) -> None:
        staged, self._staged = self._staged, []
        await self._journal.commit(staged)

    # -- the model ---------------------------------------------------------------------------

    async def _ask(self, number: int) -> bool:
        """One model call; its answer is staged. False if there was no time left for it."""
        agent, record = self._agent, self._record
        request = ModelRequest(
            model=agent.model,
            messages=self._timeline.messages(),
            system=agent.system_prompt,
            tools=agent.specs,
            max_tokens=agent.max_tokens,
            thinking=agent.thinking,
        )
        started = record.step_started(
            number, provider=self._model.provider, model=agent.model, now=self._journal.now()
        )
        self._stage("step", *started)
        await self._commit()
        narration = Narration(self._journal, record, step=number)
        limit = asyncio.timeout(self._seconds_left())
        try:
            async with limit:
                answer = await self._listen(request, narration, number)
        except TimeoutError:
            if not limit.expired():
                raise
            self._staged.extend(record.step_cut_off(number, TIME_MAX))
            return False
        except ModelUnavailable as error:
            code, message = error.slug, error.message
            self._journal.post(record.run_failed(number, code=code, message=message))
            raise
        finally:
            narration.close()
        self._staged.extend(narration.finish(answer))
        self._stage("step", record.step_completed(number, answer, self._journal.now()))
        return True

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
                        narration.see(event)
                        self._journal.post([self._record.attempt_broken(number)])
                    case _:
                        narration.see(event)
        message = f"the stream of {request.model!r} ended before its answer was complete"
        raise ModelUnavailable(message, model=request.model)

    # -- the tools ---------------------------------------------------------------------------

    def _refuse_calls(self, number: int, reason: str) -> None:
        """Answer the calls of the last step, which will not run, or not again."""
        told = NOT_RUN.format(reason=f"the run stopped ({reason})")
        for key, block, status in self._record.unanswered(number):
            self._fail(key, block, INTERRUPTED if status == "executing" else told)

    def _fail(self, key: str, block: Block, error: str) -> None:
        self._stage("tool_call", self._record.tool_call(key, block, "failed", error=error))

    async def _run_tools(self, number: int) -> None:
        """Give every call of a step its result; the last results are staged, not committed."""
        calls = [
            call
            for key, block, status in self._record.unanswered(number)
            if (call := self._admit(key, block, status)) is not None
        ]
        if not calls:
            return
        for call in calls:
            self._stage("tool_call", self._record.tool_call(call.key, call.block, "executing"))
        await self._commit()
        gate = asyncio.Semaphore(TOOLS_PARALLEL_MAX)
        tasks = {asyncio.create_task(self._execute(call, gate)): call for call in calls}
        try:
            await self._collect(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _admit(self, key: str, block: Block, status: str | None) -> _Call | None:
        """The call, ready to run; or None, and the model is told why not."""
        tool = self._agent.tools_by_name.get(block["name"])
        if tool is None:
            known = ", ".join(self._agent.tools_by_name) or "none"
            self._fail(key, block, f"There is no tool {block['name']!r}; there are: {known}.")
            return None
        if status == "executing" and not tool.idempotent:
            self._fail(key, block, INTERRUPTED)
            return None
        try:
            args = tool.check(block["input"])
        except InvalidPayload as error:
            self._fail(key, block, cut(error.message, chars_max=ERROR_CHARS_MAX))
            return None
        return _Call(key=key, block=block, tool=tool, args=args)

    async def _collect(self, tasks: dict[asyncio.Task[_Ended], _Call]) -> None:
        running = set(tasks)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in (each for each in tasks if each in done):
                call = tasks[task]
                ended = _CANCELLED if task.cancelled() else task.result()
                self._stage("tool_call", self._record.tool_call(call.key, call.block, **ended))
            if running:
                await self._commit()

    async def _execute(self, call: _Call, gate: asyncio.Semaphore) -> _Ended:
        """Run one tool; how it ended, as fields of its row."""
        async with gate:
            started = self._journal.now()
            limit = asyncio.timeout(call.tool.timeout.total_seconds())
            try:
                with self._journal.effects_of(call.key):
                    async with limit:
                        result = await _invoke(call.tool, call.args)
                    ended: _Ended = {"status": "completed", "result": call.tool.render(result)}
            except UPWARDS:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever a tool raises, the model reads
                ended = {
                    "status": "failed",
                    "error": _told(error, call.tool, expired=limit.expired()),
                }
            return ended | {"duration_ms": (self._journal.now() - started) // 1000}


_CANCELLED: _Ended = {"status": "failed", "error": "The tool was cancelled."}


async def _invoke(tool: Tool, args: BaseModel) -> object:
    if tool.blocking:
        return await asyncio.to_thread(tool.call, args)
    return await tool.call(args)


def _told(error: BaseException, tool: Tool, *, expired: bool) -> str:
    """What the model reads of a tool's failure."""
    if expired:
        seconds = f"{tool.timeout.total_seconds():g} s"
        left = " It may still be running." if tool.blocking else ""
        return f"Timed out: {tool.name!r} did not end within {seconds}.{left}"
    text = str(error)
    name = type(error).__name__
    return cut(f"{name}: {text}" if text else name, chars_max=ERROR_CHARS_MAX)
