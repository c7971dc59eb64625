{{ config(materialized='incremental', incremental_strategy='day_window', on_schema_change='fail') }}

with events as (
    select * from {{ ref('int_events__flagged') }}
    where {{ in_window('day') }} and removed_because is null
),

-- Partitioned by day as well: a session ends at the shop's midnight, so a day depends on that day only.
starts as (
    select
        *,
        coalesce(
            event_at - lag(event_at) over (
                partition by day, user_key
                order by event_at, event_id, item_id, source
            ) > interval {{ var('session_gap_minutes') }} minute,
            true
        ) as starts_session
    from events
),

numbered as (
    select
        *,
        count_if(starts_session) over (
            partition by day, user_key
            order by event_at, event_id, item_id, source
            rows between unbounded preceding and current row
        ) as session_number
    from starts
)

select
    day,
    event_id,
    source,
    event_at,
    user_key,
    substr(md5(user_key || '|' || day || '|' || session_number), 1, 16) as session_id,
    item_id,
    title,
    category,
    brand,
    behavior,
    weight,
    price,
    quantity,
    load_id,
    line
from numbered
