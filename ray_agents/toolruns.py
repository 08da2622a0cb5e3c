"""Runs the tools a model has called: checks, executes, and gives each call its one result.

A call is recorded as executing before it runs, and its result before the next model call. One that
a crash interrupted is run again only if its tool is idempotent; else the model is told. One inside
of which an agent waits for people has ended in good order: its row says so (``awaiting``), what it
had staged is dropped, and when they have decided it is run again from its beginning.

Calls that people must approve come last: those of a step that need no approval are run, then the
run ends its attempt (:class:`ray_agents.approvals.AwaitsApproval`), and goes on from here when
all of them are decided on. Arguments that do not fit are told to the model, not to people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from ray_agents import runs
from ray_agents.agent import AgentConfig
from ray_agents.approvals import ApprovalRecorded, AwaitsApproval, only_awaits, told
from ray_agents.errors import (
    CorruptLog,
    Fenced,
    InvalidPayload,
    NondeterministicWake,
    StoreFull,
    StoreUnavailable,
)
from ray_agents.interruption import told_of
from ray_agents.model import Block
from ray_agents.progress import Channel
from ray_agents.runends import unbegun, waited
from ray_agents.runwriting import RunWriter
from ray_agents.timeline import INTERRUPTED, NOT_RUN
from ray_agents.tools import ERROR_CHARS_MAX, Tool, cut
from ray_agents.views import ApprovalStatus

TOOLS_PARALLEL_MAX = 16
MICROSECOND = timedelta(microseconds=1)
REFUSALS = (ApprovalStatus.DENIED, ApprovalStatus.EXPIRED, ApprovalStatus.WITHDRAWN)
INTERRUPTED_MAX = timedelta(milliseconds=100)  # for tools to end once they are interrupted
_Ended = dict[str, Any]  # how a tool ended, as fields of its row
NOT_OF_THE_TOOL = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)
UPWARDS = (Fenced, NondeterministicWake, StoreFull, StoreUnavailable, CorruptLog)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A tool call that may run: its row's key, its block, and its checked arguments."""

    key: str
    block: Block
    tool: Tool
    args: BaseModel


class ToolRuns:
    """The tool calls of one run."""

    def __init__(self, writer: RunWriter, agent: AgentConfig) -> None:
        self._writer = writer
        self._record = writer.record
        self._journal = writer.journal
        self._agent = agent
        self._begun: dict[str, int] = {}  # when tools began in this process, by the call's key
        self._at_work: dict[str, _AtWork] = {}  # those that were announced in it

    def refuse(self, number: int, reason: str) -> None:
        """Answer the calls of the last step, which will not run, or not again."""
        for key, block, status in self._record.unanswered(number):
            self._fail(key, block, self._why_unanswered(key, block, status, reason=reason))

    def _why_unanswered(self, key: str, block: Block, status: str | None, *, reason: str) -> str:
        """What the model reads of a call that has come as far as its row and we know."""
        if status == runs.AWAITING:
            return waited(reason)
        at_work = self._at_work.get(key)
        if status not in runs.BEGUN or (at_work is not None and not at_work.begun):
            return unbegun(reason)
        if at_work is None:  # it is of an attempt before, whose process has ended
            return INTERRUPTED
        return told_of(self._agent.tools_by_name.get(block["name"]))

    def _fail(self, key: str, block: Block, error: str) -> None:
        approval = self._journal.approval(key)
        if approval is None or approval.pending:  # what was decided meanwhile stands
            self._writer.stage_unsaid(self._record.approval_withdrawn(key, self._journal.now()))
        ended = {"error": error} | self._lasted(key)
        self._writer.stage("tool_call", self._record.tool_call(key, block, "failed", **ended))

    def _lasted(self, key: str) -> _Ended:
        """How long a call has run until now, as a field of its row; none if it did not here."""
        begun = self._begun.get(key)
        return {} if begun is None else {"duration_ms": (self._journal.now() - begun) // 1000}

    async def run(self, number: int) -> None:
        """Give every call of a step its result; the last results are staged, not committed.

        Raises:
            AwaitsApproval: one of them waits for people, or an agent inside of one does; the
                others have their results.
        """
        admitted = [
            call
            for key, block, status in self._record.unanswered(number)
            if (call := self._admit(key, block, status)) is not None
        ]
        undecided = [call for call in admitted if self._must_wait(call)]
        if undecided:  # none that was asked for runs before all are decided on: one wait, not many
            admitted = [call for call in admitted if self._record.approval(call.key) is None]
        waiting = [*undecided, *(await self._run_all(admitted) if admitted else ())]
        if waiting:
            await self._writer.commit_waiting()
            names = ", ".join(call.tool.name for call in waiting)
            raise AwaitsApproval(f"run {self._record.key!r} waits for approval of {names}")

    def _must_wait(self, call: _Call) -> bool:
        """Whether people have yet to decide on a call; they are asked if they were not."""
        approval = self._record.approval(call.key)
        if approval is not None:
            return approval.pending
        if call.tool.approval is None:
            return False
        now, bound = self._journal.now(), call.tool.approval_timeout
        request = ApprovalRecorded(
            key=call.key,
            status=ApprovalStatus.PENDING,
            run_id=self._record.key,
            tool_call_id=call.block["id"],
            tool_name=call.tool.name,
            args=call.block["input"],
            requested_at=now,
            expires_at=None if bound is None else now + bound // MICROSECOND,
        )
        self._writer.stage_unsaid([self._record.approval_put(request)])
        return True

    async def _run_all(self, calls: Sequence[_Call]) -> list[_Call]:
        """Run them side by side; those inside of which an agent waits for people."""
        for call in calls:
            self._at_work[call.key] = _AtWork(asyncio.timeout(None))
            self._writer.stage(
                "tool_call", self._record.tool_call(call.key, call.block, "executing")
            )
        await self._writer.commit()
        gate = asyncio.Semaphore(TOOLS_PARALLEL_MAX)
        tasks = {asyncio.create_task(self._execute(call, gate)): call for call in calls}
        try:
            return await self._collect(tasks)
        finally:
            interrupted = self._journal.interruption.is_set
            await _end(tasks, within=INTERRUPTED_MAX if interrupted else None)

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
        approval = self._record.approval(key)
        if approval is not None and approval.status in REFUSALS:
            self._fail(key, block, told(approval))
            return None
        try:
            args = tool.check(block["input"])
        except InvalidPayload as error:
            self._fail(key, block, cut(error.message, chars_max=ERROR_CHARS_MAX))
            return None
        return _Call(key=key, block=block, tool=tool, args=args)

    async def _collect(self, tasks: dict[asyncio.Task[_Ended], _Call]) -> list[_Call]:
        waiting: list[_Call] = []
        running = set(tasks)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in (each for each in tasks if each in done):
                call = tasks[task]
                ended = _CANCELLED | self._lasted(call.key) if task.cancelled() else task.result()
                if ended is _AWAITING:
                    waiting.append(call)
                self._writer.stage(
                    "tool_call", self._record.tool_call(call.key, call.block, **ended)
                )
            if running:
                await self._writer.commit()
        return waiting

    async def _execute(self, call: _Call, gate: asyncio.Semaphore) -> _Ended:
        """Run one tool; how it ended, as fields of its row."""
        async with gate:
            self._begun[call.key] = self._journal.now()
            limit = asyncio.timeout(call.tool.timeout.total_seconds())
            at_work = self._at_work[call.key]
            at_work.limit = limit
            try:
                with self._journal.effects_of(call.key), self._progress_of(call).listening():
                    async with limit:
                        result = await self._invoke(call.tool, call.args, at_work)
                    ended: _Ended = {"status": "completed", "result": call.tool.render(result)}
            except UPWARDS:
                raise
            except BaseException as error:  # whatever a tool raises, the model reads
                if only_awaits(error):
                    return _AWAITING
                if isinstance(error, NOT_OF_THE_TOOL):
                    raise
                ended = {
                    "status": "failed",
                    "error": _told(error, call.tool, at_work),
                }
            return ended | self._lasted(call.key)

    async def _invoke(self, tool: Tool, args: BaseModel, at_work: _AtWork) -> object:
        """Call a tool; a plain function in a thread, once one is free, within as much time."""
        if not tool.blocking:
            at_work.begun = True
            return await tool.call(args)
        loop, context = asyncio.get_running_loop(), copy_context()

        def work() -> object:
            at_work.begun = True
            if not at_work.awaited:  # nobody could say any more that it has begun
                return None
            loop.call_soon_threadsafe(at_work.restart, tool.timeout.total_seconds())
            return context.run(tool.call, args)

        try:
            return await self._journal.in_thread(work)
        finally:
            at_work.awaited = False

    def _progress_of(self, call: _Call) -> Channel:
        named = {"run_id": self._record.key, "tool_call_id": call.block["id"]}
        return Channel(self._journal.post, call.key, named | {"tool_name": call.tool.name})


async def _end(tasks: Collection[asyncio.Task[_Ended]], *, within: timedelta | None) -> None:
    """Cancel what still runs. A tool that takes longer to end is left to end by itself."""
    for task in tasks:
        task.cancel()
    if tasks:
        ended, slow = await asyncio.wait(tasks, timeout=within.total_seconds() if within else None)
        for task in ended:
            _take_note(task)
        for task in slow:
            _left_behind.add(task)
            task.add_done_callback(_take_note)


def _take_note(task: asyncio.Task[_Ended]) -> None:
    """Nobody waits for this tool any more; how it ended is not news."""
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()


_left_behind: set[asyncio.Task[_Ended]] = set()  # so that nobody collects them while they end
_AWAITING: _Ended = {"status": runs.AWAITING}
_CANCELLED: _Ended = {"status": "failed", "error": "The tool was cancelled."}


@dataclass(slots=True)
class _AtWork:
    """One execution of a tool: its limit, whether it has begun, and whether it is waited for."""

    limit: asyncio.Timeout
    begun: bool = False
    awaited: bool = True

    def restart(self, seconds: float) -> None:
        """It has so many seconds from here on."""
        if self.awaited and not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time() + seconds)


def _told(error: BaseException, tool: Tool, at_work: _AtWork) -> str:
    """What the model reads of a tool's failure."""
    if at_work.limit.expired():
        seconds = f"{tool.timeout.total_seconds():g} s"
        if not at_work.begun:
            return NOT_RUN.format(reason=f"no thread was free for {tool.name!r} within {seconds}")
        left = " It may still be running." if tool.blocking else ""
        return f"Timed out: {tool.name!r} did not end within {seconds}.{left}"
    text = str(error)
    name = type(error).__name__
    return cut(f"{name}: {text}" if text else name, chars_max=ERROR_CHARS_MAX)
