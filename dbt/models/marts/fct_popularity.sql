{{ config(materialized='incremental') }}

select
    day,
    item_id,
    count(*) as events,
    count(distinct user_key) as users,
    count_if(behavior = 'browse')::bigint as browses,
    count_if(behavior = 'click')::bigint as clicks,
    count_if(behavior = 'cart')::bigint as carts,
    count_if(behavior = 'purchase')::bigint as purchases,
    sum(weight::decimal(9, 3))::double as weight
from {{ ref('int_events__sessionised') }}
where {{ in_window('day') }}
group by all
