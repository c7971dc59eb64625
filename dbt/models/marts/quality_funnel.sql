{{ config(materialized='incremental') }}

-- Each step is counted where it happens (raw zone, flags, kept events), so that the sum can be tested.
with arrived as (
    select
        day,
        source,
        count(*) as rows
    from {{ source('raw', 'behavior_events') }}
    where {{ in_window('day') }}
    group by all
),

removed as (
    select
        day,
        source,
        removed_because,
        count(*) as rows
    from {{ ref('int_events__flagged') }}
    where {{ in_window('day') }} and removed_because is not null
    group by all
),

kept as (
    select
        day,
        source,
        count(*) as rows
    from {{ ref('int_events__sessionised') }}
    where {{ in_window('day') }}
    group by all
)

select
    day,
    source,
    'raw' as step,
    rows
from arrived
union all
select
    day,
    source,
    removed_because as step,
    rows
from removed
union all
select
    arrived.day,
    arrived.source,
    'kept' as step,
    coalesce(kept.rows, 0) as rows
from arrived
left join kept
    on arrived.day = kept.day and arrived.source = kept.source
