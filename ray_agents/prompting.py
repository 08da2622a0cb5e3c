"""Prepares the model calls of a run: composes each prompt, sums up what has grown too long."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from ray_agents.agent import AgentConfig
from ray_agents.caching import cacheable_tokens_min
from ray_agents.compaction import Compaction, cut_of, summary_messages
from ray_agents.composition import Parts, Prompt, composed
from ray_agents.contextplan import VOLATILE, ContextPlan, Source
from ray_agents.contextreport import ContextReport
from ray_agents.contextsource import Filled, Unit, estimate_of, filled, read
from ray_agents.errors import ModelUnavailable
from ray_agents.estimates import tokens_in_tools
from ray_agents.events import JSON
from ray_agents.model import (
    AnswerBroken,
    Answered,
    CallQueued,
    CallSent,
    CountsTokens,
    Message,
    Model,
    ModelRequest,
    UsageSeen,
)
from ray_agents.runs import COMPACTION, INTERRUPTED, OWN_COMPACTION, SUMMARIES, TIME_MAX, text_of
from ray_agents.runwriting import RunWriter
from ray_agents.transcript import Turn, as_messages

CLOSE_SHARE = 0.7  # of a bound: from there on an estimate is not trusted
REFUSED = "refusal"


class Prompting:
    """The prompts of one run.

    ``plan`` is what ``ctx.use_context`` declared, ``entries`` are the context entries as the run
    begins, and ``summariser`` is the model that sums up, None for the run's own. ``seen`` is told
    of each prompt's report.
    """

    def __init__(
        self,
        agent: AgentConfig,
        model: Model,
        *,
        plan: ContextPlan | None = None,
        entries: Sequence[Mapping[str, JSON]] = (),
        summariser: Model | None = None,
        seen: Callable[[ContextReport], None] | None = None,
    ) -> None:
        self._agent = agent
        self._model = model
        self._plan = plan
        self._entries = entries_text(entries)
        self._summariser = summariser or model
        self._tools_tokens = tokens_in_tools(agent.specs)
        self._filled: list[Filled] | None = None
        self._stale = False  # what the sources told may stand in a summary now
        self._seen = seen

    @property
    def is_ready(self) -> bool:
        """Whether prompts can be composed without waiting."""
        return self._plan is None or (self._filled is not None and not self._stale)

    async def ready(self) -> None:
        """See to it that they can: ask the sources, once, and once more after a summary."""
        if self._plan is not None and not self.is_ready:
            self._filled = await self._fill(self._plan)
            self._stale = False

    def request(self, writer: RunWriter, number: int) -> ModelRequest:
        """What to ask the model for the step of that number, when all is ready."""
        prompt = self._prompt(writer)
        if self._seen is not None:
            self._seen(prompt.report)
        writer.record.asked(number, prompt.report)
        agent = self._agent
        return ModelRequest(
            model=agent.model,
            messages=prompt.messages,
            system=prompt.system,
            tools=agent.specs,
            max_tokens=agent.max_tokens,
            thinking=agent.thinking,
            cache_points=prompt.points,
            answers=writer.timeline.answers,
        )

    async def compact(self, writer: RunWriter, *, seconds: float | None) -> bool | None:
        """Sum the conversation up if it is too long, or its first part if that is; whether it was.

        All must be ready before the first part, and be made so again after the last one: when it
        is None, for then no model was asked. ``seconds`` is how long a part may take, None for as
        long as it likes.

        Raises:
            ModelUnavailable: the summariser cannot be reached; running again goes on from here.
        """
        compaction = self._agent.compaction
        if compaction is None or self._in_vain(writer):
            return None
        scale = writer.record.scale or 1.0
        if self._prompt(writer).message_tokens * scale <= compaction.threshold:
            return None
        turns = writer.timeline.turns()
        cut = cut_of(turns, compaction, scale=scale)
        if cut is None:
            return None
        summary = _Summary(writer, self._agent, compaction, self._summariser)
        self._stale = True
        return await summary.write(turns, cut, seconds)

    def _in_vain(self, writer: RunWriter) -> bool:
        """Whether this run has asked for a summary and got none that could be used."""
        record = writer.record
        return any(
            (record.row("step", record.step_key(name)) or {}).get("status") == "completed"
            and not any(record.row(kind, record.step_key(name)) for kind in SUMMARIES)
            for name in record.summaries()
        )

    def _prompt(self, writer: RunWriter) -> Prompt:
        own = None if self._filled is None else writer.record.key
        return composed(
            Parts(
                system_prompt=self._agent.system_prompt,
                own=writer.timeline.turns(own),
                sources=self._filled,
                entries=self._entries,
                tools_tokens=self._tools_tokens,
                cacheable_min=cacheable_tokens_min(self._agent.model),
            )
        )

    async def _fill(self, plan: ContextPlan) -> list[Filled]:
        """Ask the sources for their content, and cut it to their bounds."""
        left, told = plan.volatile_budget, list[Filled]()
        for name, source in plan.sources.items():
            given = source.content
            content = given() if callable(given) else given
            content = read(name, await content if inspect.isawaitable(content) else content)
            bound = left if source.max is None else source.max
            bound = min(bound, left) if source.cache == VOLATILE else bound
            told.append(await self._bounded(name, source, content, bound))
            if source.cache == VOLATILE:
                left -= told[-1].tokens
        return told

    async def _bounded(
        self, name: str, source: Source, content: str | Sequence[Unit], bound: int
    ) -> Filled:
        estimate, scale = estimate_of(content), 1.0
        if estimate >= CLOSE_SHARE * bound and isinstance(self._model, CountsTokens):
            counted = await self._model.count(
                ModelRequest(model=self._agent.model, messages=_countable(content))
            )
            scale = counted / estimate if counted else 1.0
        return filled(name, source, content, bound=bound, scale=scale)


class _Summary:
    """One call of the summariser, recorded as a step of the run."""

    def __init__(
        self, writer: RunWriter, agent: AgentConfig, compaction: Compaction, model: Model
    ) -> None:
        self._writer = writer
        self._record = writer.record
        self._journal = writer.journal
        self._model = model
        self._compaction = compaction
        self._model_id = compaction.model or agent.model

    async def write(self, turns: Sequence[Turn], cut: int, seconds: float | None) -> bool:
        """Ask for a summary of the first ``cut`` turns, and record it in their place, if it is one.

        Returns:
            Whether it is.
        """
        writer, record, compaction = self._writer, self._record, self._compaction
        begun = [
            name
            for name in record.summaries()
            if (record.row("step", record.step_key(name)) or {}).get("status") == "completed"
        ]
        name = f"c{len(begun) + 1}"
        started = record.step_started(
            name, provider=self._model.provider, model=self._model_id, now=self._journal.now()
        )
        writer.stage_unsaid(started)
        await writer.commit()
        request = ModelRequest(
            model=self._model_id,
            messages=summary_messages(turns[:cut]),
            system=compaction.prompt,
            max_tokens=compaction.max_tokens,
        )
        try:
            answer = await self._answer(request, name, seconds)
        except asyncio.CancelledError:  # by an interrupt: the run may go on to its end
            writer.stage_unsaid(record.step_cut_off(name, INTERRUPTED))
            raise
        if answer is None:
            writer.stage_unsaid(record.step_cut_off(name, TIME_MAX))
            return False
        writer.stage_unsaid([record.step_completed(name, answer, self._journal.now())])
        summary = text_of(answer.content).strip()
        is_one = bool(summary) and answer.stop_reason != REFUSED
        if is_one:
            writer.hear(self._journal.waiting())  # whoever reads on from here must find them
            alone = self._journal.is_alone(writer.timeline.begins_at(cut))
            kind = COMPACTION if alone else OWN_COMPACTION
            row = record.compacted(
                kind,
                name,
                summary=summary,
                turns=cut,
                tokens=sum(each.tokens for each in turns[:cut]),
                **writer.timeline.cut(cut),
            )
            writer.stage(kind, row)
        await writer.commit()
        return is_one

    async def _answer(
        self, request: ModelRequest, name: str, seconds: float | None
    ) -> Answered | None:
        """The summariser's answer; None if there was no time left for it."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._listen(request, name)
        except TimeoutError:
            if not limit.expired():
                raise
            return None
        except ModelUnavailable as error:
            failed = self._record.run_failed(name, code=error.slug, message=error.message)
            self._journal.post(failed)
            raise

    async def _listen(self, request: ModelRequest, name: str) -> Answered:
        async with aclosing(self._model.stream(request)) as events:
            async for event in events:
                match event:
                    case Answered():
                        return event
                    case UsageSeen(usage=usage) if usage.tokens:
                        self._journal.post([self._record.usage_seen(name, usage)])
                    case AnswerBroken():  # the ledger knows of it before the next attempt
                        await self._journal.commit([self._record.attempt_broken(name)])
                    case CallQueued():
                        self._record.queued(name)
                    case CallSent():
                        self._record.sent(name)
                    case _:
                        pass
        message = f"the stream of {request.model!r} ended before its summary was complete"
        raise ModelUnavailable(message, model=request.model)


def summariser_config(agent: AgentConfig) -> AgentConfig | None:
    """The configuration whose model sums up; None if that is the agent's own."""
    compaction = agent.compaction
    if compaction is None:
        return None
    responses = compaction.test_responses
    if responses is None and agent.test_responses is not None:
        responses = _made_up
    model = compaction.model or agent.model
    return replace(agent, model=model, test_responses=responses, cost_max=None)


def _made_up(request: ModelRequest) -> str:
    said = request.messages[0]["content"][0]["text"]
    return f"A made-up summary of {len(said)} characters."


def entries_text(entries: Sequence[Mapping[str, JSON]]) -> str:
    """Context entries as a part of the system prompt; empty if there are none."""
    told = (
        f'<context id="{each["id"]}" name="{each["name"]}">\n{each["content"]}\n</context>'
        for each in entries
    )
    return "\n\n".join(told)


def _countable(content: str | Sequence[Unit]) -> list[Message]:
    """Content as messages that a provider counts: they begin with the user, and end with it."""
    if isinstance(content, str):
        return [{"role": "user", "content": [{"type": "text", "text": content}]}]
    messages = as_messages(turn for unit in content for turn in unit.turns)
    if messages[0]["role"] == "assistant":
        messages.insert(0, {"role": "user", "content": [{"type": "text", "text": "…"}]})
    if messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": [{"type": "text", "text": "…"}]})
    return messages
