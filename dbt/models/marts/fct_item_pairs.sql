{{ config(materialized='incremental', incremental_strategy='day_window', on_schema_change='fail') }}

with events as (
    select
        day,
        session_id,
        item_id,
        event_at,
        event_id
    from {{ ref('int_events__sessionised') }}
    where {{ in_window('day') }}
),

-- Looking at, putting in the cart and paying for one item in a row is one step of the session.
changes as (
    select * from events
    qualify
        lag(item_id) over (
            partition by day, session_id
            order by event_at, event_id, item_id
        ) is distinct from item_id
),

steps as (
    select
        day,
        session_id,
        item_id,
        row_number() over (partition by day, session_id order by event_at, event_id, item_id) as step
    from changes
),

gaps as (
    select unnest(range(1, 11)) as gap
),

-- One equality join per gap instead of a range: the work grows with the steps, not with their square.
forward as (
    select
        one.day,
        one.item_id,
        other.item_id as other_item_id,
        (0.8 ** (gaps.gap - 1))::decimal(18, 9) as weight
    from steps as one
    cross join gaps
    inner join steps as other
        on
            one.day = other.day
            and one.session_id = other.session_id
            and one.step + gaps.gap = other.step
            and one.item_id != other.item_id
),

both_ways as (
    select * from forward
    union all
    select
        day,
        other_item_id as item_id,
        item_id as other_item_id,
        weight / 2 as weight
    from forward
)

select
    day,
    item_id,
    other_item_id,
    count(*) as pairs,
    sum(weight::decimal(18, 9))::double as weight
from both_ways
group by all
