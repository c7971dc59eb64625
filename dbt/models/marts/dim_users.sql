{{ config(materialized='view') }}

select
    user_key,
    min(day) as first_day,
    max(day) as last_day,
    sum(events)::bigint as events,
    sum(browses)::bigint as browses,
    sum(clicks)::bigint as clicks,
    sum(carts)::bigint as carts,
    sum(purchases)::bigint as purchases,
    sum(revenue::decimal(28, 4))::double as revenue
from {{ ref('int_users__daily') }}
group by all
