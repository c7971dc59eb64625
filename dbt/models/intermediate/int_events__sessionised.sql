{{ config(materialized='incremental') }}

with events as (
    select * from {{ ref('int_events__flagged') }}
    where {{ in_window('day') }} and removed_because is null
),

-- Where sessions begin is a matter of the moments alone, which are fewer and narrower than the events.
moments as (
    select distinct
        day,
        user_key,
        event_at
    from events
),

-- Partitioned by day as well: a session ends at the shop's midnight, so a day depends on that day only.
starts as (
    select
        *,
        coalesce(
            event_at - lag(event_at) over (
                partition by day, user_key
                order by event_at
            ) > interval {{ var('session_gap_minutes') }} minute,
            true
        ) as starts_session
    from moments
),

numbered as (
    select
        *,
        count_if(starts_session) over (
            partition by day, user_key
            order by event_at
            rows between unbounded preceding and current row
        ) as session_number
    from starts
)

select
    events.day,
    events.event_id,
    events.source,
    events.event_at,
    events.user_key,
    substr(md5(events.user_key || '|' || events.day || '|' || numbered.session_number), 1, 16) as session_id,
    events.item_id,
    events.title,
    events.category,
    events.brand,
    events.behavior,
    events.weight,
    events.price,
    events.quantity,
    events.load_id,
    events.line
from events
inner join numbered
    on
        events.day = numbered.day
        and events.user_key = numbered.user_key
        and events.event_at = numbered.event_at
