{{ config(
    materialized='incremental', incremental_strategy='day_window', on_schema_change='fail',
    days_ahead=var('history_days')
) }}

-- noqa: disable=references.consistent
{% set reach = var('history_days') %}

-- A day's rows are history for the days after it, so those are rebuilt with it (as far as they exist), and days may
-- still be built in any order.
with events as (
    select
        day,
        event_id,
        user_key,
        event_at,
        load_id,
        line,
        item_id,
        behavior,
        {{ in_window('day', ahead=reach) }} as is_asked
    from {{ ref('int_events__sessionised') }}
    where {{ in_window('day', behind=reach, ahead=reach) }}
),

-- Of the days before, only what a history can still hold.
needed as (
    select * from events
    qualify
        is_asked
        or row_number() over (
            partition by user_key, is_asked
            order by event_at desc, load_id desc, line desc
        ) <= {{ var('history_length') }}
),

followed as (
    select
        *,
        list({ 'day': day, 'item_id': item_id, 'behavior': behavior }) over (
            partition by user_key
            order by event_at, load_id, line
            rows between {{ var('history_length') }} preceding and 1 preceding
        ) as before
    from needed
),

recent as (
    select
        *,
        list_filter(before, lambda past: past.day >= day - {{ reach }}) as history
    from followed
    where is_asked
)

select
    day,
    event_id,
    user_key,
    event_at,
    list_transform(history, lambda past: past.item_id) as history_items,
    list_transform(history, lambda past: past.behavior) as history_behaviors,
    item_id,
    behavior
from recent
where len(history) > 0
