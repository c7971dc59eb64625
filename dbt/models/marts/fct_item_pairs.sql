{{ config(materialized='incremental') }}

{% set gaps = range(1, 11) | list %}

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

-- What comes up to ten steps later, one column per gap: the work grows with the steps, not with their square, and
-- nothing is joined.
steps as materialized (
    select
        {% for gap in gaps %}
        lead(item_id, {{ gap }}) over session as item_{{ gap }},
        {% endfor %}
        day,
        item_id
    from changes
    window session as (partition by day, session_id order by event_at, event_id, item_id)
),

-- Powers of 0.8 and their halves have at most nine decimals, so sums of them are exact in any order.
gapped as (
    {% for gap in gaps %}
    select
        day,
        item_id,
        item_{{ gap }} as other_item_id,
        (0.8 ** {{ gap - 1 }})::decimal(18, 9) as weight
    from steps
    where item_{{ gap }} != item_id
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

forward as (
    select
        day,
        item_id,
        other_item_id,
        count(*) as pairs,
        sum(weight) as weight
    from gapped
    group by all
),

both_ways as (
    select * from forward
    union all
    select
        day,
        other_item_id as item_id,
        item_id as other_item_id,
        pairs,
        (weight / 2)::decimal(28, 9) as weight
    from forward
)

select
    day,
    item_id,
    other_item_id,
    sum(pairs)::bigint as pairs,
    sum(weight)::double as weight
from both_ways
group by all
