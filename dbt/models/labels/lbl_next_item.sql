{{ config(materialized='incremental', portions_of='user_key', days_ahead=var('history_days')) }}

{% set reach = var('history_days') %}
{% set places = range(var('history_length'), 0, -1) | list %}

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
    where {{ in_window('day', behind=reach, ahead=reach) }} and {{ share_of('user_key') }}
),

-- Of the days before, only what a history can still hold, and only of those who have come again. Of one moment there
-- may be several events (a list of products), so the order goes on, by what they say and not by the files they came
-- in: else each build could tell another history.
needed as (
    select * from events
    where is_asked
    union all
    select * from events
    where
        not is_asked
        and user_key in (
            select asked.user_key from events as asked
            where asked.is_asked
        )
    qualify
        row_number() over (
            partition by user_key
            order by event_at desc, event_id desc, item_id desc, behavior desc
        ) <= {{ var('history_length') }}
),

-- One column for each place of a history, the oldest first: windows that gather lists take three times as long.
followed as (
    select
        {% for place in places %}
        lag(day, {{ place }}) over before_it as day_{{ place }},
        lag(item_id, {{ place }}) over before_it as item_{{ place }},
        lag(behavior, {{ place }}) over before_it as behavior_{{ place }},
        {% endfor %}
        *
    from needed
    window before_it as (partition by user_key order by event_at, event_id, item_id, behavior)
),

counted as (
    select
        day,
        event_id,
        user_key,
        event_at,
        item_id,
        behavior,
        [
            {% for place in places %}
            item_{{ place }}{{ ',' if not loop.last }}
            {% endfor %}
        ] as items,
        [
            {% for place in places %}
            behavior_{{ place }}{{ ',' if not loop.last }}
            {% endfor %}
        ] as behaviors,
        {% for place in places %}
        coalesce(day_{{ place }} >= day - {{ reach }}, false)::integer {{ '+' if not loop.last else 'as recent' }}
        {% endfor %}
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
