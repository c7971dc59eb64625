{{ config(materialized='view') }}

with price_sums as (
    select
        day,
        category,
        sum(prices) over recent as n,
        sum(price_sum) over recent as s,
        sum(price_sum_of_squares) over recent as q
    from {{ ref('int_categories__daily') }}
    window recent as (
        partition by category order by day
        range between interval {{ var('trailing_days') - 1 }} day preceding and current row
    )
),

activity_sums as (
    select
        day,
        user_key,
        events,
        count(*) over recent as n,
        sum(events) over recent as s,
        sum(events * events) over recent as q
    from {{ ref('int_users__daily') }}
    window recent as (
        partition by user_key order by day
        range between interval {{ var('trailing_days') - 1 }} day preceding and current row
    )
)

select
    events.*,
    {{ z_score('events.price', 'price_sums') }} as price_z,
    {{ z_score('activity_sums.events', 'activity_sums') }} as activity_z
from {{ ref('int_events__sessionised') }} as events
left join price_sums
    on events.day = price_sums.day and coalesce(events.category, '(none)') = price_sums.category
left join activity_sums
    on events.day = activity_sums.day and events.user_key = activity_sums.user_key
