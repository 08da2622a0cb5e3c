"""What the rows of a fleet mean, as SQL: the views that ``query`` offers, and what each reads.

Every view but ``events`` shows the current life of each entity by the rule of the fold: the last
row of each (type, key), deleted ones left out. Times are ``TIMESTAMPTZ``, durations milliseconds,
tokens as the provider counted them, costs micro-dollars (null if a model has no price), JSON is
text (``args->>'$.city'``). What an unfinished wake has committed counts already. The views read the
table ``fleet_rows``, which has the columns of :data:`ray_agents.tables.scan.SCHEMA`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_agents.approvals import ApprovalRecorded
from ray_agents.events import EntityCreated, EntityStopped, MessageReceived, WakeRecorded
from ray_agents.origin import EntityForked
from ray_agents.projection import TAGS_TYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view: the row types it needs (None for all of them), and its definition."""

    types: frozenset[str] | None
    sql: str


# What the views below have in common; nobody else is to read it.
INSIDE = (
    """
create view fleet_current as
with newest as (select address, max(life) as life from fleet_rows group by address)
select fleet_rows.*
from fleet_rows join newest using (address, life)
qualify row_number() over (partition by address, type, key order by "offset" desc) = 1
    and operation <> 'delete'
""",
    """
create view fleet_wakes as
select address, life, key as wake, time, facts.*
from (
    select *, from_json(value, '{
        "status": "VARCHAR", "from_offset": "BIGINT", "to_offset": "BIGINT",
        "event_count": "BIGINT", "attempt": "BIGINT", "error": "VARCHAR",
        "reply": "JSON", "text": "VARCHAR", "joined": "BIGINT[]"}') as facts
    from fleet_current where type = 'wake'
)
""",
    """
create view fleet_joined as  -- messages that were steered into a wake which had begun
select *, unnest(joined) as "offset" from fleet_wakes
""",
)

EVENTS = """
create view events as
select address, entity_type, life, "offset", time, type, key, operation, value, headers
from fleet_rows
"""

RUNS = """
create view runs as
with run as (
    select *, from_json(value, '{
        "status": "VARCHAR", "finish_reason": "VARCHAR", "steps": "BIGINT",
        "input_tokens": "BIGINT", "output_tokens": "BIGINT",
        "cache_read_tokens": "BIGINT", "cache_write_tokens": "BIGINT", "cost_micros": "BIGINT",
        "started_at": "BIGINT", "duration_ms": "BIGINT",
        "input": "VARCHAR", "text": "VARCHAR"}') as facts
    from fleet_current where type = 'run'
), failure as (
    select address, value->>'$.run_id' as run, arg_max(value->>'$.message', "offset") as error
    from fleet_current where type = 'error' group by all
)
select run.address, entity_type, life, key as run, facts.status, facts.finish_reason, facts.steps,
    facts.input_tokens, facts.output_tokens, facts.cache_read_tokens, facts.cache_write_tokens,
    facts.cost_micros,
    make_timestamptz(facts.started_at) as started, facts.duration_ms,
    facts.input, facts.text,
    case when facts.status = 'failed' then failure.error end as error,
    time as updated, "offset"
from run left join failure on run.address = failure.address and run.key = failure.run
"""

STEPS = """
create view steps as
with step as (
    select *, from_json(value, '{
        "run_id": "VARCHAR", "step_number": "BIGINT", "status": "VARCHAR",
        "finish_reason": "VARCHAR", "model_provider": "VARCHAR", "model_id": "VARCHAR",
        "attempt": "BIGINT", "input_tokens": "BIGINT", "output_tokens": "BIGINT",
        "cache_read_tokens": "BIGINT", "cache_write_tokens": "BIGINT", "cost_micros": "BIGINT",
        "started_at": "BIGINT", "duration_ms": "BIGINT", "content": "JSON",
        "purpose": "VARCHAR", "context": "JSON"}') as facts
    from fleet_current where type = 'step'
), failure as (
    select address, value->>'$.step_id' as step, arg_max(value->>'$.message', "offset") as error
    from fleet_current where type = 'error' group by all
)
select step.address, entity_type, life, facts.run_id as run, key as step, facts.step_number,
    facts.status, facts.finish_reason, facts.model_provider, facts.model_id, facts.attempt,
    facts.input_tokens, facts.output_tokens, facts.cache_read_tokens, facts.cache_write_tokens,
    facts.cost_micros,
    make_timestamptz(facts.started_at) as started, facts.duration_ms,
    facts.content::varchar as content, facts.purpose, facts.context::varchar as context,
    case when facts.status = 'failed' then failure.error end as error,
    time as updated, "offset"
from step left join failure on step.address = failure.address and step.key = failure.step
"""

TOOL_CALLS = """
create view tool_calls as
with call as (
    select *, from_json(value, '{
        "run_id": "VARCHAR", "tool_call_id": "VARCHAR", "tool_name": "VARCHAR",
        "status": "VARCHAR", "duration_ms": "BIGINT", "args": "JSON", "result": "JSON",
        "error": "VARCHAR"}') as facts
    from fleet_current where type = 'tool_call'
)
select address, entity_type, life, facts.run_id as run, split_part(key, ':tool:', 1) as step,
    key as tool_call, facts.tool_call_id, facts.tool_name, facts.status, facts.duration_ms,
    facts.args::varchar as args, facts.result::varchar as result, facts.error,
    time as updated, "offset"
from call
"""

APPROVALS = """
create view approvals as
with approval as (
    select *, from_json(value, '{
        "run_id": "VARCHAR", "tool_call_id": "VARCHAR", "tool_name": "VARCHAR",
        "status": "VARCHAR", "args": "JSON", "requested_at": "BIGINT", "expires_at": "BIGINT",
        "decided_at": "BIGINT", "by": "VARCHAR", "reason": "VARCHAR"}') as facts
    from fleet_current where type = 'approval'
)
select address, entity_type, life, facts.run_id as run, key as tool_call, facts.tool_call_id,
    facts.tool_name, facts.status, facts.args::varchar as args,
    make_timestamptz(facts.requested_at) as requested,
    make_timestamptz(facts.expires_at) as expires,
    make_timestamptz(facts.decided_at) as decided, facts."by" as decided_by, facts.reason,
    time as updated, "offset"
from approval
"""

INBOX = """
create view inbox as
with message as (
    select *, from_json(value, '{
        "from": "VARCHAR", "message_type": "VARCHAR", "payload": "JSON"}') as facts
    from fleet_current where type = 'inbox'
), wake as (
    select * from fleet_wakes where from_offset < to_offset
), covered as (
    select message.address, message."offset" as covered_offset, wake.wake
    from message asof join wake
        on message.address = wake.address and message."offset" >= wake.from_offset
    where message."offset" < wake.to_offset
), taken_by as (
    select address, "offset" as taken_offset, wake from fleet_joined
    union all
    select covered.address, covered_offset, covered.wake
    from covered anti join fleet_joined
        on covered.address = fleet_joined.address
        and covered_offset = fleet_joined."offset"
)
select message.address, entity_type, message.life, key as message, facts."from" as sender,
    facts.message_type, facts.payload::varchar as payload,
    case when taken and wake.status in ('handled', 'skipped') then 'processed' else 'pending' end
        as status,
    case when taken then wake.wake end as wake,
    case when taken then wake.status end as wake_status,
    message.time as received,
    case when taken and wake.status in ('handled', 'skipped') then wake.time end as processed,
    case when taken then wake.reply::varchar end as reply,
    case when taken then wake.text end as text,
    case when taken then wake.error end as error,
    "offset"
from message
left join taken_by on message.address = taken_by.address and message."offset" = taken_offset
left join fleet_wakes as wake
    on wake.address = taken_by.address and wake.wake = taken_by.wake
cross join lateral (select taken_by.wake is not null as taken)
"""

ENTITIES = """
create view entities as
with created as (
    select *, from_json(value, '{
        "args": "JSON", "tags": "JSON", "parent": "VARCHAR"}') as facts
    from fleet_current where type = 'entity_created'
), forked as (  -- takes the place of what the source's row says
    select address, time, from_json(value, '{
        "source": "VARCHAR", "parent": "VARCHAR", "created": "BIGINT"}') as facts
    from fleet_current where type = 'entity_forked'
), tagged as (
    select address, json_group_object(key, value->'$.value') as tags  -- null takes a tag away
    from fleet_current where type = 'tags' group by address
), stopped as (
    select address, time, value->>'$.reason' as reason
    from fleet_current where type = 'entity_stopped'
), wake as (
    select address, max(to_offset) as watermark,
        count(*) filter (status = 'parked') as parked,
        coalesce(
            sum(event_count + coalesce(len(joined), 0))
                filter (status in ('started', 'waiting', 'failed')), 0
        ) as taken,
        max(time) as last_wake
    from fleet_wakes group by address
), joined as (
    select address, count(*) as steered
    from fleet_joined join wake using (address) where "offset" >= watermark group by address
), message as (
    select address, count(*) as messages, max(time) as last_message,
        count(*) filter ("offset" >= coalesce(watermark, 0)) as waiting
    from fleet_current left join wake using (address) where type = 'inbox' group by address
)
select address, entity_type, split_part(address, '/', 3) as id, created.life,
    case when forked.facts is null then created.facts.parent else forked.facts.parent end as parent,
    forked.facts.source as forked_from, created.facts.args::varchar as args,
    coalesce(json_merge_patch(created.facts.tags, tagged.tags), created.facts.tags)::varchar
        as tags,
    coalesce(make_timestamptz(forked.facts.created), created.time) as created,
    stopped.time as stopped, stopped.reason as stop_reason,
    coalesce(messages, 0) as messages,
    case when stopped.time is null
        then (coalesce(waiting, 0) - coalesce(steered, 0) + coalesce(taken, 0))::bigint
        else 0 end as backlog,
    case when stopped.time is null then coalesce(parked, 0) else 0 end as parked,
    greatest(created.time, forked.time, stopped.time, last_message, last_wake) as last_active
from created left join forked using (address)
left join tagged using (address) left join stopped using (address)
left join wake using (address) left join joined using (address)
left join message using (address)
"""

_LIFE = EntityCreated.TYPE  # tells which life is the current one, so every view reads it
_MESSAGES = {MessageReceived.TYPE, WakeRecorded.TYPE}

VIEWS = {
    "events": View(types=None, sql=EVENTS),
    "runs": View(types=frozenset({_LIFE, "run", "error"}), sql=RUNS),
    "steps": View(types=frozenset({_LIFE, "step", "error"}), sql=STEPS),
    "tool_calls": View(types=frozenset({_LIFE, "tool_call"}), sql=TOOL_CALLS),
    "approvals": View(types=frozenset({_LIFE, ApprovalRecorded.TYPE}), sql=APPROVALS),
    "inbox": View(types=frozenset({_LIFE} | _MESSAGES), sql=INBOX),
    "entities": View(
        types=frozenset({_LIFE, EntityForked.TYPE, EntityStopped.TYPE, TAGS_TYPE} | _MESSAGES),
        sql=ENTITIES,
    ),
}
