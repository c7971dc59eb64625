{{ config(materialized='incremental') }}

with events as (
    select * from {{ ref('int_events__sessionised') }}
    where {{ in_window('day') }}
),

words as (
    select
        day,
        item_id,
        title,
        category,
        brand,
        count(*) as events
    from events
    group by all
),

-- What most of the day's events call it; of equals, the first in the alphabet.
named as (
    select * from words
    qualify
        row_number() over (
            partition by day, item_id
            order by
                title is null asc, events desc, title asc, category asc nulls last, brand asc nulls last
        ) = 1
),

counted as (
    select
        day,
        item_id,
        median(price) as price,
        count(*) as events
    from events
    group by all
)

select
    counted.day,
    counted.item_id,
    named.title,
    named.category,
    named.brand,
    counted.price,
    counted.events
from counted
inner join named
    on counted.day = named.day and counted.item_id = named.item_id
