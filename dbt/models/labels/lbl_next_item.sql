{{ config(
    materialized='incremental', incremental_strategy='day_window', on_schema_change='fail',
    days_ahead=var('history_days')
) }}

{% set reach = var('history_days') %}

-- A day's rows are history for the days after it, so those are rebuilt with it (as far as they exist), and days may
-- still be built in any order.
with events as (
    select
        day,
        event_id,
        user_key,
        event_at,
        item_id,
        behavior,
        {{ in_window('day', ahead=reach) }} as is_asked
    from {{ ref('int_events__sessionised') }}
    where {{ in_window('day', behind=reach, ahead=reach) }}
),

-- Of the days before, only what a history can still hold. Of one moment there may be several events (a list of
-- products), so the order goes on, by what they say and not by the files they came in: else each build could tell
-- another history.
needed as (
    select * from events
    qualify
        is_asked
        or row_number() over (
            partition by user_key, is_asked
            order by event_at desc, event_id desc, item_id desc, behavior desc
        ) <= {{ var('history_length') }}
),

-- One list per column: a list of structs takes ten times as long.
followed as (
    select
        *,
        list(day) over before_it as days,
        list(item_id) over before_it as items,
        list(behavior) over before_it as behaviors
    from needed
    window before_it as (
        partition by user_key order by event_at, event_id, item_id, behavior
        rows between {{ var('history_length') }} preceding and 1 preceding
    )
),

counted as (
    select
        *,
        len(list_filter(days, lambda past: past >= day - {{ reach }})) as recent
    from followed
    where is_asked
)

select
    day,
    event_id,
    user_key,
    event_at,
    items[-recent:] as history_items,
    behaviors[-recent:] as history_behaviors,
    item_id,
    behavior
from counted
where recent > 0
